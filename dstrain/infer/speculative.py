"""Self-speculative generation: a model's further heads propose tokens, and one pass over them judges them all.

Shapes: B prompts, T positions, S slots of a row's tokens, C channels, V vocabulary, D further heads, H of them at once,
J = D + 1 places that a pass judges.

Each pass reads the newest token and the drafts behind it. Its first head's odds at each of these places decide which
drafts stand and what comes behind them (accepting.py); what was refused is taken back from the cache. So each row gains
from 1 to J tokens a pass, at its own pace. Greedy, they are the tokens of plain decoding; sampled, other tokens of
the same distribution. As there, no generator's state decides: each number is a hash of (seed, prompt number, position,
what it is for), and none is used twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.infer.accepting import Drawn, Outcome, stand_by_chance, stand_if_best
from dstrain.infer.choose import Choosing, best, choose, drawn, odds
from dstrain.infer.continuing import Generated, Pace, Row, Tokenizer, begin, right_padded, seen_in
from dstrain.infer.ties import ROUNDING
from dstrain.nn.chance import uniforms
from dstrain.nn.drafting import Drafter
from dstrain.nn.mode import in_eval

_BEHIND, _ACCEPT, _DRAFT, _PURPOSES = 0, 1, 2, 32   # what a number is for: head d's draft has _DRAFT + d - 1


class DraftingModel(Protocol):
    """What this asks of a model: MoeLm has it."""

    length: int
    norm: nn.Module
    further: Sequence[nn.Module]

    def new_cache(self, rows: int, capacity: int) -> Any: ...

    def new_drafter(self, rows: int, capacity: int) -> Drafter: ...

    def trunk(self, ids_BT: Tensor, lengths_B: Tensor, cache: Any) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


def why_not(model: nn.Module) -> str | None:
    """What a model lacks for this; None where it can."""
    if not hasattr(model, "new_drafter"):
        return f"{type(model).__name__} predicts the next token alone"
    if not len(model.further):
        return "the model was trained with model.next_tokens 1, and predicts the next token alone"
    return None


@torch.no_grad()
def generate_speculatively(
        model: nn.Module & DraftingModel, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int,
        temperature: float = 0.0, seed: int = 0, first_prompt: int = 0, *, top_k: int = 0, top_p: float = 1.0,
        repetition_penalty: float = 1.0, stop: Sequence[str] = (), show: Callable[[int, str], None] | None = None,
        pace: Pace | None = None) -> list[Generated]:
    """As `generate`, with the same arguments."""
    how = Choosing(temperature, top_k, top_p, repetition_penalty)
    how.check()
    lacks = why_not(model)
    if lacks is not None:
        raise UserError(f"speculative: {lacks}, so there is nothing that could draft; generate without it")
    rows = begin(tokenizer, prompts, model.length, max_new_tokens, first_prompt, stop, show)
    if not rows:
        return []
    with in_eval(model):
        _Speculation(model, rows, how, seed, first_prompt, max_new_tokens).run(pace or Pace())
    return [row.result for row in rows]


class _Speculation:
    """All rows of a call, and where each of them is."""

    def __init__(self, model: nn.Module & DraftingModel, rows: list[Row], how: Choosing, seed: int, first_prompt: int,
                 max_new_tokens: int) -> None:
        self.model, self.rows, self.how, self.seed = model, rows, how, seed
        device = next(model.parameters()).device
        starts = [row.start for row in rows]
        self.longest = max(map(len, starts))
        capacity = min(self.longest + max_new_tokens - 1, model.length)
        self.cache, self.drafter = model.new_cache(len(rows), capacity), model.new_drafter(len(rows), capacity)
        # Known tokens, then drafts: also such as go beyond the cache, drafted and never read.
        self.ids_BS = right_padded(starts, capacity + 1 + self.drafter.heads, device)
        self.known_B = torch.tensor([len(start) for start in starts], device=device)
        self.row_B = torch.arange(len(rows), device=device)
        self.numbers_B1 = self.row_B[:, None] + first_prompt
        self.seen_BV = None if how.repetition_penalty == 1.0 else seen_in(starts, len(model.output_weight), device)
        self.drawn: list[Drawn] = []

    def run(self, pace: Pace) -> None:
        x_BTC, new_B = self.model.trunk(self.ids_BS[:, :self.longest], self.known_B, self.cache), self.known_B
        last_B1C = x_BTC[self.row_B, self.known_B - 1].unsqueeze(1)
        self.judge(last_B1C, torch.ones_like(self.known_B))
        began = time.perf_counter()
        # A row's last token comes out of a pass without having been drafted, and is never read.
        while places := max(reads := [min(self.drafter.heads + 1, row.left) for row in self.rows]):
            self.drawn.clear()
            if places > 1:
                self.drafter.draft(x_BTC, new_B, self.ids_BS, self.pick)
            reads_B = torch.tensor(reads, device=self.ids_BS.device)
            x_BTC = self.model.trunk(self.newest(places), reads_B, self.cache)
            new_B, taken = self.judge(x_BTC, reads_B)
            self.cache.take_back(reads_B - new_B)
            pace.passes += sum(read > 0 for read in reads)
            pace.tokens += taken
        pace.seconds += time.perf_counter() - began

    def newest(self, places: int) -> Tensor:
        """[B, places], the last known token and drafts behind it."""
        return self.ids_BS.gather(1, self.known_B[:, None] - 1 + torch.arange(places, device=self.ids_BS.device))

    def pick(self, first: int, hidden_BHC: Tensor) -> None:
        """Drafts of the heads from number `first`, written behind the known tokens."""
        rows, heads, _ = hidden_BHC.shape
        distances_H = torch.arange(first, first + heads, device=hidden_BHC.device)
        logits_NV = self.model.logits(hidden_BHC).flatten(0, 1)
        seen_NV = None if self.seen_BV is None else self.seen_BV.repeat_interleave(heads, dim=0)
        places_BH = self.known_B[:, None] - 1 + distances_H
        rounding = ROUNDING[hidden_BHC.dtype]
        if self.how.temperature == 0.0:
            ids_N = best(self.how, logits_NV, seen_NV)
        else:
            q = odds(self.how, logits_NV, seen_NV, rounding)
            ids_N, tie_N = drawn(q, self.uniforms(places_BH, _DRAFT + distances_H - 1).flatten())
            p_NV = q.p_BV / q.p_BV.sum(dim=-1, keepdim=True)
            self.drawn.append(Drawn(*(values.view(rows, heads, *values.shape[1:])
                                      for values in (ids_N, p_NV, q.slack_B, q.astray_B, tie_N))))
        self.ids_BS.scatter_(1, places_BH, ids_N.view(rows, heads))

    def judge(self, x_BJC: Tensor, reads_B: Tensor) -> tuple[Tensor, int]:
        """Of each row that has read something: how many tokens it gains; and how many of all these were taken.

        Place j of `x_BJC` has read the newest token and j drafts.
        """
        rows, places, _ = x_BJC.shape
        logits_NV = self.model.logits(self.model.norm(x_BJC)).flatten(0, 1)
        outcome = self.outcome(logits_NV, (reads_B - 1).clamp(min=0), places, ROUNDING[x_BJC.dtype])
        new_B = torch.where(reads_B > 0, outcome.standing_B + 1, 0)
        last_B1 = outcome.tokens_BJ.gather(1, outcome.standing_B[:, None])
        self.ids_BS.scatter_(1, (self.known_B + outcome.standing_B)[:, None], last_B1)
        if self.seen_BV is not None:
            stands_BJ = torch.arange(places, device=new_B.device) <= outcome.standing_B[:, None]
            self.seen_BV.scatter_(1, torch.where(stands_BJ, outcome.tokens_BJ, last_B1), True)
        self.known_B = self.known_B + new_B
        own_BJ = logits_NV.gather(1, outcome.tokens_BJ.view(-1, 1)).squeeze(1) - logits_NV.logsumexp(dim=-1)
        return new_B, self.take(outcome, own_BJ.view(rows, places), new_B)

    def outcome(self, logits_NV: Tensor, drafts_B: Tensor, places: int, rounding: float) -> Outcome:
        seen_NV, drafts_BD = self.seen_at(places), self.newest(places)[:, 1:]
        if self.how.temperature == 0.0:
            best_N, tie_N = choose(self.how, logits_NV, seen_NV, None, rounding)
            return stand_if_best(best_N.view(-1, places), tie_N.view(-1, places), drafts_BD, drafts_B)
        places_BJ = self.known_B[:, None] + torch.arange(places, device=drafts_B.device)
        p = odds(self.how, logits_NV, seen_NV, rounding)
        if places == 1:
            drawn_N = drawn(p, self.uniforms(places_BJ, _BEHIND).flatten())
            return Outcome(drawn_N.tokens_B[:, None], drawn_N.tie_B[:, None], torch.zeros_like(drafts_B))
        drafts = Drawn(*(torch.cat(parts, dim=1)[:, :places - 1] for parts in zip(*self.drawn, strict=True)))
        return stand_by_chance(p, drafts, drafts_B, self.uniforms(places_BJ[:, :-1], _ACCEPT),
                               self.uniforms(places_BJ, _BEHIND))

    def seen_at(self, places: int) -> Tensor | None:
        """[B * J, V], the tokens that a penalty is for: all known ones, and the drafts that a place has read."""
        if self.seen_BV is None:
            return None
        seen_BJV = self.seen_BV.unsqueeze(1).repeat(1, places, 1)
        if places > 1:
            read_BJ = self.newest(places)
            earlier_JJ = torch.ones(places, places, dtype=torch.bool, device=read_BJ.device).tril()
            seen_BJV.scatter_(2, torch.where(earlier_JJ, read_BJ[:, None], read_BJ[:, :1, None]), True)
        return seen_BJV.flatten(0, 1)

    def uniforms(self, places_BJ: Tensor, purpose: Tensor | int) -> Tensor:
        """float64, for tokens at these places of the rows."""
        return uniforms(self.seed, self.numbers_B1, places_BJ * _PURPOSES + purpose)

    def take(self, outcome: Outcome, own_BJ: Tensor, new_B: Tensor) -> int:
        """Hands the rows their tokens, in one read from the device. How many were taken, until a row ended."""
        taken = 0
        counts_BJ = new_B[:, None].expand_as(own_BJ)
        columns = (outcome.tokens_BJ, own_BJ, outcome.tie_BJ, counts_BJ)
        for row, gained in zip(self.rows, torch.stack([column.double() for column in columns], dim=-1).tolist()):
            for token, logprob, tie, _ in gained[:int(gained[0][3])]:
                if row.result.stopped:
                    break
                row.take(int(token), logprob, bool(tie))
                taken += 1
        return taken

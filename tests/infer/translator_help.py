"""A small encoder-decoder with what the search asks of a model, and a search that is as slow as it is plain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dstrain.data.tokenizers.tokenizer import load_tokenizer

EOT = 3
BYTES = load_tokenizer("bytes")
BOTH = SimpleNamespace(source=BYTES, target=BYTES, shared=True)


class Memory(NamedTuple):
    kept_BSC: Tensor
    can_attend_BS: Tensor

    def of_rows(self, rows_N: Tensor) -> Memory:
        return Memory(self.kept_BSC[rows_N], self.can_attend_BS[rows_N])


@dataclass
class Cache:
    kept_BTC: Tensor

    def pick(self, rows_N: Tensor) -> None:
        self.kept_BTC = self.kept_BTC[rows_N]


class Small(nn.Module):
    """Source and prefix are each looked at by attention; the end grows more likely with the length."""

    def __init__(self, vocabulary: int = 23, width: int = 16, length: int = 60, seed: int = 1, spread: float = 6.0,
                 dtype: torch.dtype = torch.float64, ends: float = 0.25) -> None:
        super().__init__()
        self.length, self.ends = length, ends
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))

        self.source_VC, self.target_VC, self.places_TC = weight(vocabulary, width), weight(vocabulary, width), weight(
            length + 1, width)
        self.ask_CC, self.look_CC, self.mix_CC = weight(width, width), weight(width, width), weight(3 * width, width)
        self.out_VC = nn.Parameter(weight(vocabulary, width).detach() * spread / width ** 0.5)
        self.dropout = nn.Dropout(0.5)                                  # a search that forgot eval mode shows

    def encode(self, source_BS: Tensor, source_lengths_B: Tensor) -> Memory:
        size = source_BS.shape[1]
        can_attend_BS = torch.arange(size) < source_lengths_B[:, None]
        x_BSC = self.source_VC[source_BS] + self.places_TC[:size]
        return Memory(x_BSC + torch.tanh(self._looked(x_BSC, x_BSC, can_attend_BS[:, None])), can_attend_BS)

    def new_cache(self, rows: int, capacity: int) -> Cache:
        assert capacity <= self.length
        return Cache(self.places_TC.new_zeros(rows, 0, self.places_TC.shape[1]))

    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: Cache, memory: Memory) -> Tensor:
        """Also several tokens at once, where all rows have as many."""
        old, new = cache.kept_BTC.shape[1], ids_BT.shape[1]
        assert old + new <= self.length and bool((lengths_B == new).all())
        x_BTC = self.target_VC[ids_BT] + self.places_TC[old:old + new]
        cache.kept_BTC = torch.cat([cache.kept_BTC, x_BTC], dim=1)
        beams = len(ids_BT) // len(memory.kept_BSC)
        memory = memory.of_rows(torch.arange(len(memory.kept_BSC)).repeat_interleave(beams))
        seen_TS = torch.ones(new, old + new, dtype=torch.bool).tril(old)
        both_BTC = torch.cat([x_BTC, self._looked(x_BTC, cache.kept_BTC, seen_TS),
                              self._looked(x_BTC @ self.look_CC, memory.kept_BSC, memory.can_attend_BS[:, None])], 2)
        hidden_BTC = self.dropout(torch.tanh(both_BTC @ self.mix_CC * 0.2))
        self.now = old + new                                            # for `logits`
        return hidden_BTC

    def logits(self, hidden: Tensor) -> Tensor:
        logits = hidden @ self.out_VC.T
        logits[..., EOT] += self.ends * (self.now - 5)
        return logits

    def _looked(self, asking_BTC: Tensor, kept_BSC: Tensor, can_attend: Tensor) -> Tensor:
        scores_BTS = asking_BTC @ self.ask_CC @ kept_BSC.transpose(1, 2) / kept_BSC.shape[2]
        return scores_BTS.masked_fill(~can_attend, -math.inf).softmax(-1) @ kept_BSC


def model_of_bytes() -> Small:
    """Its tokens are bytes, and its end is theirs."""
    model = Small(257, 24, spread=4.0, ends=0.0)
    inner = model.logits

    def logits(hidden):
        logits_RV = inner(hidden)
        logits_RV[:, 256] += 4.0 + 0.5 * (model.now - 5)
        return logits_RV

    model.logits = logits
    return model


def with_twins(model: Small, apart: float = 0.0) -> Small:
    """Tokens 2n and 2n + 1 (but the end) are to the model the same one, or nearly: each choice is between equals."""
    with torch.no_grad():
        for name in ("target_VC", "out_VC"):
            weight_VC = getattr(model, name)
            for even in range(4, len(weight_VC) - 1, 2):
                weight_VC[even + 1] = weight_VC[even] * (1.0 + apart)
    return model


def some_sources(count: int, vocabulary: int = 23, longest: int = 12, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)

    def below(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    return [[below(vocabulary) for _ in range(1 + below(longest))] + [EOT] for _ in range(count)]


def plain_search(model: nn.Module, source: list[int], limit: int, beam: int, length_penalty: float
                 ) -> tuple[list[int], float, str]:
    """What beam.py says that it does: one line, lists that are sorted, and the whole prefix again for each token."""
    model.eval()
    memory = model.encode(torch.tensor([source]), torch.tensor([len(source)]))
    running, finished = [([], 0.0)], []
    for length in range(1, limit + 1):
        prefix_BT = torch.tensor([[EOT, *ids] for ids, _ in running])
        hidden_BTC = model.extend(prefix_BT, torch.full((len(running),), length), model.new_cache(len(running), limit),
                                  memory)
        log_p = torch.log_softmax(model.logits(hidden_BTC[:, -1]).double(), -1).tolist()
        candidates = sorted((-(total + log_p[place][token]), token, place)
                            for place, (_, total) in enumerate(running) for token in range(len(log_p[place])))
        best = [(running[place][0] + [token], -lost) for lost, token, place in candidates]
        finished += [(total / ((5 + length) / 6) ** length_penalty, ids[:-1])
                     for ids, total in best[:beam] if ids[-1] == EOT]
        running = [(ids, total) for ids, total in best if ids[-1] != EOT][:beam]
        reachable = running[0][1] / ((5 + limit) / 6) ** length_penalty
        if len(finished) >= beam or finished and max(score for score, _ in finished) >= reachable:
            break
    if not finished:
        return running[0][0], running[0][1] / ((5 + limit) / 6) ** length_penalty, "length"
    score, ids = max(finished, key=lambda result: result[0])
    return ids, score, "end"

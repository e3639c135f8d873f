"""Greedy and beam search with a key-value cache, for one batch of sources.

Shapes: L lines, W hypotheses of a line (one at first, then `beam`), R = L * W rows of the model, B sources, S their
positions, T target tokens, C channels.

What is searched, exactly:

- A hypothesis is a list of tokens. Its score is (sum of log p) / ((5 + length) / 6) ** length_penalty, where the
  length counts its end token, as the sum does.
- At each step every running hypothesis is continued with every token. Candidates are ordered by their sum; equal ones
  by token id, and then by the place of the hypothesis that they continue. Candidates that end, and are among the best
  `beam` of all, are finished and kept apart. The best `beam` that do not end run on.
- A line is done when `beam` hypotheses have finished; or when none that runs can still beat the best finished one: its
  sum can only fall, so it can reach at most that sum over the largest divisor up to the line's limit; or at that limit.
- The result is the finished hypothesis with the best score, of equal ones the first. Where none has finished at the
  line's limit, it is the best running one, without an end.

So a beam of 1 takes the best token each time, and ends with the first end token. Nothing of this depends on other
lines. Lines that are done leave the batch, and what stands in padding or in another line changes no bit as long as
shapes are the same; how another shape can change a choice, and how that is counted, stands in `Lines.slack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dstrain.infer.hypotheses import Found, Lines
from dstrain.infer.searching import Searching
from dstrain.infer.ties import ROUNDING


class EncoderDecoder(Protocol):
    """What a search asks of a model: Seq2Seq has it."""

    length: int

    def encode(self, source_BS: Tensor, source_lengths_B: Tensor) -> Any: ...

    def new_cache(self, rows: int, capacity: int) -> Any: ...

    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: Any, memory: Any) -> Tensor: ...
    """a source in `memory` may serve several rows: as many for each, standing one after another"""

    def logits(self, hidden: Tensor) -> Tensor: ...


@torch.no_grad()
def search(model: EncoderDecoder, sources: Sequence[list[int]], limits: Sequence[int], start: int,
           how: Searching) -> list[Found]:
    """Translates sources, each with its end, all in one batch. The token `start` begins and ends a target.

    Line n has at most `limits[n]` target tokens, its end among them.
    """
    device = next(model.parameters()).device
    memory = model.encode(*_right_padded(sources, device))
    cache = model.new_cache(len(sources), max(limits))
    lines = Lines.at_start(limits, device)
    tokens_R = torch.full((len(sources),), start, device=device)
    found: list[Found | None] = [None] * len(sources)
    for length in range(1, max(limits) + 1):
        hidden_RC = model.extend(tokens_R[:, None], torch.ones_like(tokens_R), cache, memory)[:, 0]
        rows_LW = lines.grow(model.logits(hidden_RC), start, length, how, ROUNDING[hidden_RC.dtype])
        done_L = lines.done(length, how)
        some_leave = bool(done_L.any())
        if some_leave:
            for place, result in lines.results(done_L, length, how):
                found[place] = result
            stay_L = (~done_L).nonzero().squeeze(1)
            if not len(stay_L):
                break
            lines, rows_LW, memory = lines.of(stay_L), rows_LW[stay_L], memory.of_rows(stay_L)
        tokens_R, rows_R = lines.ids_LWT[:, :, length - 1].flatten(), rows_LW.flatten()
        if some_leave or how.beam > 1:
            cache.pick(rows_R)
    return found


def _right_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    return (torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device),
            torch.tensor([len(row) for row in rows], device=device))

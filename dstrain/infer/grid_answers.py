"""Answering puzzles with a trained model: the most likely id each time, among those that can spell a grid.

An answer depends on nothing but its prompt: not on its batch, on what stands beside it, or on the prompts' order.
Another batch shape rounds otherwise: in float64 that changes nothing; in float32 it may change an answer in which a
choice hangs on rounding, and such choices are counted (`ties`).

Shapes: B rows of a batch, N of them that go on, T new positions, L ids of the longest answer, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dstrain.data.grids.grid_batch import GridBatch, collate_grids
from dstrain.data.grids.prompt import Prompt
from dstrain.data.grids.row import DECODER
from dstrain.data.grids.task import Grid
from dstrain.data.grids.tokens import END, grid_of
from dstrain.infer.grid_spelling import Spelling
from dstrain.infer.ties import ROUNDING, greedy_ties
from dstrain.nn.mode import in_eval

BATCH_ROWS, BATCH_POSITIONS = 64, 2**16
"""rows that are answered together, at most, and positions that they take, answers included: memory decides"""
SHORTEST = 3
"""ids of a grid of one cell"""
LEAVE_AT = 4
"""rows leave their batch when one of so many has ended: each time all that the others remember is copied"""


class GridWriter(Protocol):
    """What a search asks of a model; one that reads its prompts in another way than it writes has `encode`, too."""

    length: int

    def new_cache(self, rows: int, capacity: int) -> Any: ...

    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: Any, *memory: Any) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


class Answered(NamedTuple):
    """What became of one prompt."""

    grid: Grid | None = None
    """None: it did not end within its limit, or there was no room for an answer"""
    logprob: float = 0.0
    """sum of log p of the ids, the end among them, under the model itself: among all ids"""
    tokens: int = 0
    """that were written"""
    ties: int = 0
    """choices that hang on rounding: there another batch shape may choose otherwise"""
    ids: tuple[int, ...] = ()
    """what was written, its end among them"""


def answer_prompts(model: nn.Module & GridWriter, prompts: Sequence[Prompt | None], kind: str) -> list[Answered]:
    """Each prompt's answer; None, a question that does not fit the model, has no answer."""
    found = [Answered()] * len(prompts)
    with in_eval(model):
        for numbers in size_batches(prompts, kind, model.length):
            for number, answer in zip(numbers, _search(model, [prompts[n] for n in numbers], kind), strict=True):
                found[number] = answer
    return found


def size_batches(prompts: Sequence[Prompt | None], kind: str, length: int) -> list[list[int]]:
    """Numbers of the prompts that can be answered, the smallest first, cut into batches."""
    return list(_cut(prompts, kind, length))


def limit_of(prompt: Prompt, kind: str, length: int) -> int:
    """How many ids its answer may have: no more than the model has positions for."""
    taken = len(prompt.row.sequence()) - 1 if kind == DECODER else 0  # the answer's last id is never read
    return min(prompt.most, length - taken)


def _cut(prompts: Sequence[Prompt | None], kind: str, length: int) -> Iterator[list[int]]:
    sizes = {n: prompt.row.size(kind) + limit_of(prompt, kind, length) for n, prompt in enumerate(prompts)
             if prompt is not None and limit_of(prompt, kind, length) >= SHORTEST}
    batch: list[int] = []
    for number in sorted(sizes, key=sizes.__getitem__):
        if batch and (len(batch) == BATCH_ROWS or (len(batch) + 1) * sizes[number] > BATCH_POSITIONS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


@torch.no_grad()
def _search(model: nn.Module & GridWriter, prompts: Sequence[Prompt], kind: str) -> list[Answered]:
    device = next(model.parameters()).device
    batch = collate_grids([prompt.row for prompt in prompts], range(len(prompts)), kind).to(device)
    limits = [limit_of(prompt, kind, model.length) for prompt in prompts]
    memory = () if kind == DECODER else (_encoded(model, batch),)
    before = batch.lengths_B.tolist()
    cache = model.new_cache(len(prompts), max(map(sum, zip(before, limits))) - 1)
    answers = _Answers(limits, device)
    ids_BT, lengths_B = batch.ids_BT, batch.lengths_B
    while True:
        hidden_BTC = model.extend(ids_BT, lengths_B, cache, *memory)
        hidden_BC = hidden_BTC[torch.arange(len(ids_BT), device=device), (lengths_B - 1).clamp(min=0)]
        ids_BT = answers.choose(model.logits(hidden_BC), ROUNDING[hidden_BC.dtype])[:, None]
        stay_N = answers.leave()
        if stay_N is not None:
            if not len(stay_N):
                return answers.found
            cache.pick(stay_N)
            memory, ids_BT = tuple(part.of_rows(stay_N) for part in memory), ids_BT[stay_N]
        lengths_B = answers.open_B.long()  # a row that has ended has nothing new


def _encoded(model: nn.Module, batch: GridBatch) -> Any:
    return model.encode(**{name: tensor for name, tensor in batch.inputs().items()
                           if name not in ("ids_BT", "lengths_B")})


class _Answers:
    """What is written of each row that is still there, and the answers of those that have left."""

    def __init__(self, limits: Sequence[int], device: torch.device):
        self.found = [Answered()] * len(limits)
        self.open_B = torch.ones(len(limits), dtype=torch.bool, device=device)
        self._spelling = Spelling(len(limits), device)
        self._places_B, self._limits_B = torch.arange(len(limits), device=device), torch.tensor(limits, device=device)
        self._ids_BL = torch.zeros(len(limits), max(limits), dtype=torch.long, device=device)
        self._logprobs_B = torch.zeros(len(limits), dtype=torch.float64, device=device)
        self._ties_B, self._counts_B = torch.zeros(2, len(limits), dtype=torch.long, device=device)
        self._written = 0

    def choose(self, logits_BV: Tensor, rounding: float) -> Tensor:
        """The best allowed id of each row; of a row that has ended it means nothing."""
        allowed_BV = self._spelling.allowed_BV()
        best_BV = logits_BV.masked_fill(~allowed_BV, -torch.inf)
        ids_B = best_BV.argmax(dim=-1)
        self._spelling.take(ids_B)
        self._ids_BL[:, self._written] = ids_B
        log_p_B = logits_BV.double().log_softmax(dim=-1).gather(1, ids_B[:, None]).squeeze(1)
        ties_B = greedy_ties(best_BV, rounding) & (allowed_BV.sum(dim=-1) > 1)
        self._logprobs_B += torch.where(self.open_B, log_p_B, 0.0)
        self._ties_B += ties_B & self.open_B
        self._counts_B += self.open_B
        self._written += 1
        self.open_B = self.open_B & (ids_B != END) & (self._written < self._limits_B)
        return ids_B

    def leave(self) -> Tensor | None:
        """Which rows stay, where it is time that others leave."""
        going = int(self.open_B.sum())
        if going and (len(self.open_B) - going) * LEAVE_AT < len(self.open_B):
            return None
        done_N, stay_N = (~self.open_B).nonzero().squeeze(1), self.open_B.nonzero().squeeze(1)
        told = (tensor[done_N].tolist() for tensor in (
            self._places_B, self._counts_B, self._logprobs_B, self._ties_B, self._ids_BL[:, :self._written]))
        for place, count, logprob, ties, ids in zip(*told, strict=True):
            self.found[place] = Answered(grid_of(ids[:count]), logprob, count, ties, tuple(ids[:count]))
        self._keep(stay_N)
        return stay_N

    def _keep(self, rows_N: Tensor) -> None:
        self._spelling.keep(rows_N)
        for name in ("open_B", "_places_B", "_limits_B", "_ids_BL", "_logprobs_B", "_ties_B", "_counts_B"):
            setattr(self, name, getattr(self, name)[rows_N])

"""Test-time training: for one puzzle, adapters that are trained on its demonstrations alone, and then taken off again.

Each demonstration in turn is the query, and the others are shown beside it, in views as in training. The puzzle's own
queries take no part in it. What is learned depends on the puzzle, its name and the seed, and on nothing that was
adapted to before.

An encoder-decoder is shown no demonstration: no view could tell it that colours are exchanged or grids turned. It
learns the demonstrations as they are, so its answers belong to that one view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.grid_batch import collate_grids
from dstrain.data.grids.row import ENCODER_DECODER, Row, drawn, fitted
from dstrain.data.grids.task import Example, Task
from dstrain.data.hashing import ADAPTING, permutation
from dstrain.nn.adapters import for_a_while
from dstrain.nn.chance import name_number
from dstrain.nn.mode import in_eval
from dstrain.objectives.loss_law import loss_law
from dstrain.objectives.next_token import NextToken


@dataclass(frozen=True)
class Adapting:
    """How one puzzle is learned."""

    steps: int
    """0: not at all"""
    rank: int = 8
    lr: float = 1e-3
    rows_a_step: int = 4
    seed: int = 1

    def check(self) -> None:
        """Raises ValueError where nothing could come of it."""
        for name, least in (("steps", 0), ("rank", 1), ("rows_a_step", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}, but must be above 0")


@dataclass(frozen=True)
class Adapted:
    """What came of it."""

    losses: tuple[float, ...] = ()
    """of each step, before its update"""
    rows: int = 0
    """that were learned, over all steps"""
    left_out: int = 0
    """rows that did not fit the model's length"""
    why_not: str | None = None
    """why the model answers as it is, without adapters"""


@contextmanager
def adapted(model: nn.Module, task: Task, data: PuzzleData, kind: str, length: int, how: Adapting) -> Iterator[Adapted]:
    """Within the block the model answers as one that has learned this puzzle; afterwards it is, to the bit, what it
    was, however the block ends. `data`: in which views, and with how many demonstrations, it is shown; `length`: of
    its longest row."""
    how.check()
    why_not = _why_not(task, kind) if how.steps else "no step is asked for"
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if not dtypes <= {torch.float32, torch.float64}:
        raise ValueError(f"weights in {', '.join(map(str, dtypes))} lose what so few steps change: adapt a model in "
                         f"float32")
    if why_not is not None:
        yield Adapted(why_not=why_not)
        return
    with for_a_while(model, how.rank, f"{how.seed}/{task.name}") as trained:
        with torch.enable_grad(), in_eval(model):
            found = _learn(model, trained, task, data, kind, length, how)
        for parameter in trained:
            parameter.requires_grad_(False)
        yield found


def rows_of_step(task: Task, data: PuzzleData, kind: str, length: int, how: Adapting, step: int) -> list[Row | None]:
    """Of all demonstrations each is the query equally often, in an order of the puzzle's own; None does not fit."""
    if kind == ENCODER_DECODER:
        data = replace(data, symmetries=False, colours="none")
    key, demonstrations = (ADAPTING, how.seed, name_number(task.name)), _answered(task)
    rows = []
    for number in range(step * how.rows_a_step, (step + 1) * how.rows_a_step):
        again, place = divmod(number, len(demonstrations))
        left_out = permutation(len(demonstrations), *key, again)[place]
        others = Task(task.name, task.category, (*demonstrations[:left_out], *demonstrations[left_out + 1:]), ())
        rows.append(fitted(drawn(others, demonstrations[left_out], data, *key, again, left_out), kind, length))
    return rows


def _learn(model: nn.Module, trained: list[nn.Parameter], task: Task, data: PuzzleData, kind: str, length: int,
           how: Adapting) -> Adapted:
    """Without dropout, so that there is no chance in it but the rows' own."""
    objective, device = NextToken(), trained[0].device
    optimizer = torch.optim.AdamW(trained, lr=how.lr, betas=(0.9, 0.95), weight_decay=0.0)
    losses: list[float] = []
    learned = left_out = 0
    for step in range(how.steps):
        asked = rows_of_step(task, data, kind, length, how, step)
        rows = [row for row in asked if row is not None]
        learned, left_out = learned + len(rows), left_out + len(asked) - len(rows)
        if not rows:
            continue
        batch = collate_grids(rows, range(len(rows)), kind).to(device)
        hidden = model(**batch.inputs(), keys_B=None)
        nll = objective.sums(model, hidden, batch.labels_BT, batch.inputs()).nll
        loss = loss_law(nll, objective.counts(batch), objective.weights)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            _forget(trained)
            return Adapted(tuple(losses), learned, left_out, f"its loss is {losses[-1]} in step {step + 1}: a smaller "
                                                             f"learning rate may help")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    beside = "" if kind == ENCODER_DECODER else " beside another"
    why_not = None if learned else f"no demonstration fits {length} positions{beside}"
    return Adapted(tuple(losses), learned, left_out, why_not)


def _forget(trained: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in trained:
            parameter.zero_()


def _why_not(task: Task, kind: str) -> str | None:
    count = len(_answered(task))
    if not count:
        return "it has no demonstration to learn from"
    if count == 1 and kind != ENCODER_DECODER:
        return "it has one demonstration, and none to show beside it"
    return None


def _answered(task: Task) -> tuple[Example, ...]:
    return tuple(example for example in task.demonstrations if example.output is not None)

"""Faults of puzzles: what is shown beside a query, whose shape counts, and which grid is looked at.

Shapes: B rows, S tokens of a grid, X of all that are shown, G grids, M tokens of outputs, C channels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dstrain.config.arc import PuzzleData, PuzzleSource
from dstrain.data.collate import UNSCORED
from dstrain.data.grids import grid_feed, row
from dstrain.data.grids.grid_batch import GridBatch, collate_grids
from dstrain.data.grids.sources import open_puzzles
from dstrain.data.grids.task import Example
from dstrain.data.grids.views import View
from dstrain.doctor.case import Case
from dstrain.doctor.faults.of_data import change_grids
from dstrain.doctor.faults.planting import judged_by, put
from dstrain.doctor.finding import Finding, NotProven
from dstrain.models import grid_champion
from dstrain.models.grid_champion import GridChampion

COPIED, TURNED = 3, View(symmetry=5, colours=(0, 3, 1, 2, 4, 5, 9, 7, 8, 6))


def answer_among_demonstrations() -> None:
    """Demonstrations are drawn from all pairs of a task: of many queries the answer stands beside them."""
    put(row, "shown_beside", lambda task, query: [example for example in task.examples if example.output is not None])


def shown_outputs_not_scored() -> None:
    """A decoder learns one output of a row, as in a validation, and not all but the first."""
    put(grid_feed, "collate_grids", lambda rows, numbers, kind: collate_grids(rows, numbers, kind, scores_shown=False))


def first_shape_for_all() -> None:
    """Each answer is scored as far as the first one of its batch goes."""
    def change(batch: GridBatch) -> GridBatch:
        beyond_T = torch.arange(batch.labels_BT.shape[1]) >= batch.lengths_B[0]
        return replace(batch, labels_BT=batch.labels_BT.masked_fill(beyond_T, UNSCORED))

    change_grids(change)


def first_width_for_all() -> None:
    """Rows and columns of all grids of a batch are counted by the row ends of the first one."""
    inner = grid_champion.read_places
    put(grid_champion, "read_places", lambda ids_BS, lengths_B: inner(
        ids_BS[:1].expand_as(ids_BS), lengths_B[:1].expand_as(lengths_B)))


def padding_shown() -> None:
    """Behind each demonstration stands padding, and the query attends it."""
    _shown(lambda context_BMC, can_attend_B11M: (context_BMC, torch.ones_like(can_attend_B11M)))


def neighbours_demonstrations() -> None:
    """Each query is shown what belongs to the puzzle beside it."""
    _shown(lambda context_BMC, can_attend_B11M: (context_BMC.roll(1, dims=0), can_attend_B11M.roll(1, dims=0)))


def demonstrations_swallowed() -> None:
    """They are read, and nothing of them arrives: the answer is guessed from the query alone."""
    _shown(lambda context_BMC, can_attend_B11M: (torch.zeros_like(context_BMC), can_attend_B11M))


def evaluation_puzzles_turned(case: Case) -> Finding:
    """Some puzzles to validate on stand among those to train on: turned, in other colours, in another order."""
    full = case.full or case.recipe
    if not isinstance(full.data, PuzzleData):
        raise NotProven(f"the family {case.family.name} has no puzzles")
    path, copies = case.new_folder("turned") / "copies.json", {}
    for corpus in open_puzzles(full.data, "valid"):
        for number, question in zip(range(COPIED), corpus.to_validate()):
            task = TURNED.of_task(question.task)
            query, *shown = (_as_json(example) for example in task.examples)
            copies[f"copy {number}"] = {"train": shown, "test": [query]}
    path.write_text(json.dumps(copies))
    train = (*full.data.train, PuzzleSource(path=str(path)))
    return judged_by("overlap", replace(case, full=replace(full, data=replace(full.data, train=train))))


def _as_json(example: Example) -> dict[str, list]:
    return {name: grid.tolist() for name, grid in zip(("input", "output"), example) if grid is not None}


def _shown(change: Any) -> None:
    inner = GridChampion._shown

    def wrong(self: GridChampion, context_BX: Tensor, lengths_BG: Tensor, keys_B: Tensor | None) -> Any:
        return change(*inner(self, context_BX, lengths_BG, keys_B))

    put(GridChampion, "_shown", wrong)

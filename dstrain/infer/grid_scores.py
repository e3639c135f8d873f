"""How good answers to puzzles are: whole grids, cells, shapes and changed cells, beside what copying the input gives.

Everything is counted over queries whose answer is known, and of what the model itself wrote. All shares are sums over
sums: a query of 900 cells has 900 of them in a share of cells, and one of 1 has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dstrain.config.schema import Recipe
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.task import Example, Grid
from dstrain.infer.grid_answers import Answered, GridWriter, answer_prompts, size_batches
from dstrain.infer.grid_voting import Verdict, prompts_of, verdicts, views_of
from dstrain.nn.mode import in_eval
from dstrain.runtime.dist import Ranks


class Marks(NamedTuple):
    """What is counted of one query; of several the sums."""

    queries: int = 1
    answered: int = 0
    """that got a grid"""
    right: int = 0
    """whose first attempt is the answer: its shape and every cell"""
    right_in_2: int = 0
    """whose first or second attempt is"""
    shapes: int = 0
    """whose first attempt has the answer's height and width"""
    cells_right: int = 0
    """of the first attempts; one that they do not have is wrong"""
    cells: int = 0
    """of the answers"""
    changed_found: int = 0
    changed: int = 0
    """of the answers' cells those that the input has not, or has in another colour"""
    copied: int = 0
    """whose answer is its input"""
    copied_cells: int = 0


def generated_grid_scores(model: nn.Module & GridWriter, questions: Sequence[Question], recipe: Recipe, ranks: Ranks,
                          alone: bool, must_leave: Callable[[], bool] = lambda: False) -> dict | None:
    """Answers the questions in `valid.views` views and scores that; the same on every rank.

    `alone`: every rank holds the whole model, and answers a share; else all answer everything together (inside
    `all_ranks_generate`). What stands in a batch has nothing to do with ranks: their number changes no bit. None, on
    all ranks, when one must leave.
    """
    questions = [question for question in questions if question.query.output is not None]
    if not questions:
        raise ranks.mistake("data.valid holds no puzzle whose answer is known: give others, or leave it out")
    with ranks.together("preparing the validation puzzles"):
        views = views_of(recipe, recipe.valid.views)
        prompts = prompts_of(questions, views, recipe)
        batches = size_batches(prompts, recipe.model.kind, model.length)
    share = ranks.world if alone else 1
    found: dict[int, Answered] = {}
    with in_eval(model):
        for first in range(0, len(batches), share):
            ranks.pulse.enter("validation", f"answering, batch {first + 1} of {len(batches)}")
            if int(ranks.sum(torch.tensor(must_leave(), dtype=torch.int64, device=ranks.device))):
                return None
            mine = first + (ranks.rank if alone else 0)
            numbers = batches[mine] if mine < len(batches) else []
            with ranks.together("answering the validation puzzles"):
                answers = answer_prompts(model, [prompts[n] for n in numbers], recipe.model.kind)
                found |= dict(zip(numbers, answers, strict=True))
    everywhere = {n: answer for of_rank in ranks.gather(found) for n, answer in of_rank.items()}
    with ranks.together("scoring answers"):
        scores = None
        if ranks.first:
            answers = [everywhere.get(n, Answered()) for n in range(len(prompts))]
            scores = scores_of(questions, verdicts(views, answers))
    return ranks.share(scores)


def scores_of(questions: Sequence[Question], found: Sequence[Verdict]) -> dict:
    """Of questions whose answers are known. `by_category` has the main ones once more, and `puzzles`, for a reader's
    table and no line of metrics, the sums by task."""
    marked = [(question, marks_of(question.query, [candidate.grid for candidate in verdict.attempts]))
              for question, verdict in zip(questions, found, strict=True)]
    whole = _sum(marks for _, marks in marked)
    changed = {"changed_found": whole.changed_found / whole.changed} if whole.changed else {}
    return {**_main(whole), "shape_accuracy": whole.shapes / whole.queries, **changed,
            "copy_cell_accuracy": whole.copied_cells / whole.cells, "answered": whole.answered / whole.queries,
            "by_category": {category: {"queries": marks.queries, **_main(marks)} for category, marks in sorted(
                _grouped(marked, lambda question: question.task.category).items())},
            "puzzles": [{"name": name, "category": category, **marks._asdict()} for (name, category), marks in _grouped(
                marked, lambda question: (question.task.name, question.task.category)).items()]}


def marks_of(query: Example, attempts: Sequence[Grid]) -> Marks:
    """`attempts`: the best first; only two count."""
    truth = query.output
    first = attempts[0] if attempts else None
    here, copied = _agrees(first, truth), _agrees(query.input, truth)
    return Marks(answered=int(first is not None), right=int(_equal(first, truth)),
                 right_in_2=int(any(_equal(attempt, truth) for attempt in attempts[:2])),
                 shapes=int(first is not None and first.shape == truth.shape),
                 cells_right=int(here.sum()), cells=truth.size, changed_found=int((here & ~copied).sum()),
                 changed=int((~copied).sum()), copied=int(_equal(query.input, truth)), copied_cells=int(copied.sum()))


def _main(marks: Marks) -> dict[str, float]:
    return {"grid_accuracy": marks.right / marks.queries, "grid_accuracy_2": marks.right_in_2 / marks.queries,
            "cell_accuracy": marks.cells_right / marks.cells, "copy_baseline": marks.copied / marks.queries}


def _grouped(marked: Sequence[tuple[Question, Marks]], group_of: Callable) -> dict:
    groups: dict = {}
    for question, marks in marked:
        groups.setdefault(group_of(question), []).append(marks)
    return {group: _sum(marks) for group, marks in groups.items()}


def _sum(marks: Iterable[Marks]) -> Marks:
    return Marks(*map(sum, zip(*marks)))


def _agrees(grid: Grid | None, truth: Grid) -> np.ndarray:
    """Of each of the truth's cells: whether the grid has it, in the same colour."""
    agrees = np.zeros(truth.shape, bool)
    if grid is not None:
        height, width = min(grid.shape[0], truth.shape[0]), min(grid.shape[1], truth.shape[1])
        agrees[:height, :width] = grid[:height, :width] == truth[:height, :width]
    return agrees


def _equal(grid: Grid | None, truth: Grid) -> bool:
    return grid is not None and grid.shape == truth.shape and bool((grid == truth).all())

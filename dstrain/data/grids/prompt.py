"""A question as a model reads it: its demonstrations and its query in a view, with room left for the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.row import Row, fitted, row_of, shown_beside
from dstrain.data.grids.task import Example
from dstrain.data.grids.tokens import END, LONGEST, ids_of
from dstrain.data.grids.views import View


class Prompt(NamedTuple):
    row: Row
    """without an answer"""
    most: int = LONGEST
    """ids that an answer may have"""


def prompt_of(question: Question, view: View, data: PuzzleData, kind: str, length: int) -> Prompt | None:
    """The question in a view, with as many of its demonstrations as fit; None where not even the query does.

    Its answer is not looked at: how much room one needs is told by the largest among the query and the outputs shown.
    It may have twice as much, and some (as in all of ARC-1's training tasks): a model that has learned nothing yet
    would always write as many ids as there can be.
    """
    row = row_of(shown_to(question, data), question.query, view, with_answer=False)
    room = _largest(question, view, shown_to(question, data))
    most = min(LONGEST, 2 * _largest(question, view, question.task.demonstrations) + 10)
    found = fitted(replace(row, answer=np.full(room, END, np.int32)), kind, length, fewest=0)
    if found is None:  # so large an answer has no room, but a smaller one may have
        found = fitted(replace(row, shown=(), left_out=len(row.shown)), kind, length, fewest=0)
    return None if found is None else Prompt(replace(found, answer=row.answer), most)


def shown_to(question: Question, data: PuzzleData) -> list[Example]:
    """The task's own first demonstrations, in their order: what other queries' answers are is never shown."""
    return shown_beside(replace(question.task, queries=()), question.query)[:data.demonstrations]


def _largest(question: Question, view: View, shown: Sequence[Example]) -> int:
    """Ids of the largest among the query and these outputs."""
    return max(len(ids_of(view.of(grid))) for grid in (question.query.input, *(example.output for example in shown)))

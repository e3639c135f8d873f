"""A question as a model reads it: its demonstrations and its query in a view, with room left for the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.row import Row, fitted, row_of, shown_beside
from dstrain.data.grids.task import Example
from dstrain.data.grids.tokens import END
from dstrain.data.grids.views import View


def prompt_of(question: Question, view: View, data: PuzzleData, kind: str, length: int) -> Row | None:
    """The question in a view, with as many of its demonstrations as fit; None where not even the query does.

    Its answer is not looked at: how much room one needs is told by the largest among the query and the outputs shown.
    """
    row = row_of(shown_to(question, data), question.query, view, with_answer=False)
    room = max(len(grid) for grid in (row.query, *(output for _, output in row.shown)))
    found = fitted(replace(row, answer=np.full(room, END, np.int32)), kind, length, fewest=0)
    if found is None:  # so large an answer has no room, but a smaller one may have
        found = fitted(replace(row, shown=(), left_out=len(row.shown)), kind, length, fewest=0)
    return None if found is None else replace(found, answer=row.answer)


def shown_to(question: Question, data: PuzzleData) -> list[Example]:
    """The task's own first demonstrations, in their order: what other queries' answers are is never shown."""
    return shown_beside(replace(question.task, queries=()), question.query)[:data.demonstrations]

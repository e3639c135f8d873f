"""Puzzles answered twice: as `solve` and validations do it, with a cache, and by whole forward passes of training.

A whole pass over a row with its answer judges each token of it: it has to be the best of those that can spell a grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from dstrain.config.schema import Recipe
from dstrain.data.grids.grid_batch import collate_grids
from dstrain.data.grids.prompt import Prompt
from dstrain.data.grids.row import DECODER, Row, drawn, fitted
from dstrain.data.grids.sources import open_puzzles
from dstrain.data.grids.tokens import END, ROW_END
from dstrain.data.hashing import VIEWS
from dstrain.doctor.case import Case
from dstrain.doctor.continued import MANY_NEW_TOKENS, Continued
from dstrain.doctor.finding import NotProven
from dstrain.infer.grid_answers import answer_prompts
from dstrain.infer.grid_spelling import Spelling
from dstrain.infer.ties import greedy_ties
from dstrain.nn.mode import in_eval

ROOM = 3
"""share of the positions, one in so many, that a prompt leaves to its answer"""
LOOKED_AT = 200
"""questions among which prompts of different sizes are found"""


class Puzzles:
    """Of a model that answers puzzles: a query, and what is shown with it."""

    same_shapes = False
    """a row that has ended leaves its batch"""

    def __init__(self, case: Case):
        self._kind, self._heads_of = case.recipe.model.kind, case.family.anatomy.heads_of
        rows = sorted(_rows(case.recipe), key=lambda row: row.size(self._kind))
        if len(rows) < 5:
            raise NotProven(f"the first {LOOKED_AT} questions hold no five puzzles that leave room for an answer")
        *_, self.longer = rows
        self.watched, self.third = [rows[0], rows[len(rows) // 4], rows[len(rows) // 2]], rows[1]
        self.other = _changed(self.third)

    def as_long_as(self, length: int) -> tuple[Row, int]:
        """(a puzzle that takes as many positions, tokens of an answer to ask for)."""
        most = length - MANY_NEW_TOKENS if self._kind == DECODER else length
        row = self.longer
        while (larger := _larger(row)).size(self._kind) <= most:
            row = larger
        return row, MANY_NEW_TOKENS

    def cached(self, model: torch.nn.Module, rows: list[Row], new_tokens: int = MANY_NEW_TOKENS) -> list[Continued]:
        """As `solve` does it."""
        answers = answer_prompts(model, [Prompt(row, new_tokens) for row in rows], self._kind)
        return [Continued(list(answer.ids), answer.logprob, answer.ties) for answer in answers]

    @torch.no_grad()
    def uncached(self, model: torch.nn.Module, row: Row, new_tokens: int = MANY_NEW_TOKENS) -> Continued:
        """What a whole pass says of what was written for the row alone; up to where it says something else."""
        ids = self.cached(model, [row], new_tokens)[0].ids
        inputs = collate_grids([replace(row, answer=np.array(ids, np.int32))], [0], self._kind).inputs()
        with in_eval(model):
            hidden_BTC = self._heads_of(model(**inputs, keys_B=None))[0]
        logits_TV = model.logits(hidden_BTC[0, -len(ids):]).double()
        found, logprob, ties, spelling = [], 0.0, 0, Spelling(1, logits_TV.device)
        for logits_V, id_written in zip(logits_TV, ids, strict=True):
            allowed_V = spelling.allowed_BV()[0]
            best_V = logits_V.masked_fill(~allowed_V, -torch.inf)
            best = best_V.argmax()
            spelling.take(best[None])
            found.append(int(best))
            logprob += float(logits_V.log_softmax(dim=0)[best])
            ties += int(allowed_V.sum() > 1) * int(greedy_ties(best_V[None], 1e-12))
            if int(best) != id_written:
                break
        if found == ids and END not in ids[-1:] and len(ids) < self._limit(model, row, new_tokens):
            found.append(END)  # it stopped before its end
        return Continued(found, logprob, ties)

    def _limit(self, model: torch.nn.Module, row: Row, new_tokens: int) -> int:
        return min(new_tokens, model.length - (len(row.sequence()) - 1 if self._kind == DECODER else 0))


def _rows(recipe: Recipe) -> Iterator[Row]:
    """Prompts, a question each, with room for an answer."""
    length = recipe.batch.length - recipe.batch.length // ROOM
    for corpus in open_puzzles(recipe.data, "train"):
        for number in range(min(LOOKED_AT, len(corpus))):
            task, query = corpus.question(number)
            row = drawn(task, query, recipe.data, VIEWS, recipe.run.seed, corpus.number, 0, number)
            row = fitted(replace(row, answer=row.answer[:0]), recipe.model.kind, length)
            if row is not None:
                yield row


def _changed(row: Row) -> Row:
    """Of the same shapes, in other colours."""
    def other(ids: np.ndarray) -> np.ndarray:
        return np.where(ids < ROW_END, (ids + 1 + np.arange(len(ids)) % 3) % ROW_END, ids).astype(np.int32)

    return replace(row, shown=tuple((other(one), other(two)) for one, two in row.shown), query=other(row.query))


def _larger(row: Row) -> Row:
    """With one row of cells more in the query, and where demonstrations are shown, one of them more."""
    width = int(np.flatnonzero(row.query == ROW_END)[0]) + 1
    return replace(row, shown=row.shown + row.shown[:1], query=np.concatenate([row.query[:width], row.query]))

"""Validation puzzles: one pass over the sources, every query once, as it is: batches to be scored, or questions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from dstrain.config.schema import Recipe
from dstrain.config.shape import shape_of
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.cutting import cut_by_size
from dstrain.data.grids.grid_batch import GridBatch, collate_grids
from dstrain.data.grids.prompt import shown_to
from dstrain.data.grids.row import cut_to, row_of
from dstrain.data.grids.sources import open_puzzles


def valid_grids(recipe: Recipe, tokenizer: object, rank: int, world: int) -> Iterator[GridBatch]:
    """One pass over the rank's share: all ranks together score every answer once, whatever their number, and answers
    alone. Ends earlier on some ranks: a filler stands in there."""
    tokens, kind = shape_of(recipe, world).micro_tokens, recipe.model.kind
    questions, number = iter(valid_questions(recipe)), 0
    while window := list(islice(questions, recipe.batch.window)):
        rows = [cut_to(row_of(shown_to(question, recipe.data), question.query), kind, recipe.batch.length)
                for question in window]
        for places in cut_by_size(rows, kind, max(tokens, recipe.batch.length) * world):
            if own := range(rank, len(places), world):
                yield collate_grids([rows[places[row]] for row in own], [number + places[row] for row in own], kind,
                                    scores_shown=False)
        number += len(window)


def valid_questions(recipe: Recipe) -> list[Question]:
    """All queries of the validation puzzles whose answers are known, in their own order."""
    return [question for corpus in open_puzzles(recipe.data, "valid") for question in corpus.to_validate()]

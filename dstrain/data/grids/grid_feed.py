"""A rank's training steps on puzzles: endless, prepared ahead in a thread, each with the place to continue from.

Every rank makes the rows of a whole window, and takes its own of each batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape, shape_of
from dstrain.data.grids.audit import check_apart
from dstrain.data.grids.corpus import PuzzleCorpus
from dstrain.data.grids.cutting import cut_by_size
from dstrain.data.grids.draws import STATE, Draws, Mixed
from dstrain.data.grids.grid_batch import GridBatch, collate_grids, hash_of_grids
from dstrain.data.grids.row import Row
from dstrain.data.grids.sources import open_puzzles
from dstrain.data.hashing import WINDOWS, permutation, wrap_int64
from dstrain.data.pairs.windows import rows_of_rank
from dstrain.data.step_feed import Step, StepFeed
from dstrain.data.window_place import WindowPlace, check_window_place


class GridFeed(StepFeed):
    """One rank's steps, for ever, prepared in a thread and `data.prefetch_steps` ahead.

    `pin` puts the batches into pinned memory, from where a GPU fetches them beside its work. `place` continues behind
    that step, on any number of ranks.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any, rank: int, world: int, place: dict | None = None,
                 warn: Any = None, pin: bool = False):
        corpora = open_puzzles(recipe.data, "train")
        check_apart(corpora, open_puzzles(recipe.data, "valid"))
        if place is not None:
            check_window_place(place, recipe, corpora, STATE)

        def produce(stop: Event) -> Iterator[Step]:
            return _steps(recipe, corpora, rank, shape_of(recipe, world), place, pin)

        super().__init__(produce, recipe.data.prefetch_steps, rank)


@dataclass(frozen=True)
class Window:
    rows: list[Row]
    sources: list[int]
    """the number of the source of each"""
    over_long: int
    """questions that were passed over while it was filled"""

    def batches(self, kind: str, tokens: int, *key: int) -> list[list[int]]:
        """The rows' places in the window, by global batch, each batch sorted by size. Small ones and large ones come in
        no order."""
        found = cut_by_size(self.rows, kind, tokens)
        return [found[place] for place in permutation(len(found), WINDOWS, *key)]


def _steps(recipe: Recipe, corpora: Sequence[PuzzleCorpus], rank: int, shape: Shape, place: dict | None,
           pin: bool) -> Iterator[Step]:
    at, kind = WindowPlace.of(place, corpora, recipe, STATE), recipe.model.kind
    draws = [Draws(corpus, recipe, state) for corpus, state in zip(corpora, at.sources, strict=True)]
    mixed = Mixed(draws, [source.weight for source in recipe.data.train])
    while True:
        window = _next_window(mixed, recipe.batch.window)
        batches = window.batches(kind, recipe.batch.tokens, recipe.run.seed, at.window)
        if at.batch >= len(batches):
            raise UserError(f"the checkpoint stands at batch {at.batch} of a window that has {len(batches)}: the data "
                            f"have changed since. Restore them, or start the run anew with --fresh")
        behind = [one.state() for one in draws]
        for places in batches[at.batch:]:
            first = at.batch == 0
            at = at.next_window(behind) if at.batch == len(batches) - 1 else at.next_batch()
            parts = rows_of_rank(len(places), rank, shape)
            made = [collate_grids([window.rows[places[row]] for row in part], part, kind) for part in parts]
            own = [places[row] for part in parts for row in part]
            stats = _stats(window, own, made, len(corpora)) | {
                "epochs": [one.epoch for one in draws],
                "dropped": window.over_long if first and rank == 0 else 0,
                "window_dropped": window.over_long if rank == 0 else 0, "bad_lines": 0}
            yield Step(at.step, [batch.pin() for batch in made] if pin else made, at.as_json(),
                       wrap_int64(sum(map(hash_of_grids, made))), stats)


def _next_window(mixed: Mixed, size: int) -> Window:
    before = sum(one.over_long for one in mixed.draws)
    taken = [mixed.take() for _ in range(size)]
    return Window([row for _, row in taken], [source for source, _ in taken],
                  sum(one.over_long for one in mixed.draws) - before)


def _stats(window: Window, own: Sequence[int], made: Sequence[GridBatch], source_count: int) -> dict[str, Any]:
    by_source = [0] * source_count
    for place in own:
        by_source[window.sources[place]] += len(window.rows[place].answer)
    scored = sum(batch.scored() for batch in made)
    return {"scored": scored, "filled": sum(batch.filled() for batch in made),
            "positions": sum(batch.positions() for batch in made), "words": 0, "documents": len(own),
            "cut": sum(window.rows[place].left_out > 0 for place in own), "targets_by_source": by_source}

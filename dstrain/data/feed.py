"""A rank's training steps: endless, prepared ahead in a thread, each with the place to continue from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape, shape_of
from dstrain.data.batching import lanes_of_rank, micro_batches_of, rows_of_rank
from dstrain.data.collate import UNSCORED, Batch, Row, filler_batch, hash_of_rows
from dstrain.data.hashing import wrap_int64
from dstrain.data.lanes import Lane, Stream
from dstrain.data.reading.malformed import MalformedLines, Warn, to_stderr
from dstrain.data.parsed import parsed
from dstrain.data.place import check_place, merge_places, place_after
from dstrain.data.preparing.prepared import PreparedCorpus, corpora_of
from dstrain.data.scan import Reader
from dstrain.data.step_feed import Step, StepFeed
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.tokenizer import Tokenizer
from dstrain.data.validation import valid_batches
from dstrain.data.workers import workers_for

__all__ = ["Step", "TrainFeed", "filler_batch", "merge_places", "valid_batches"]


class TrainFeed(StepFeed):
    """One rank's steps, for ever, prepared in a thread and `data.prefetch_steps` ahead.

    `warn` hears of malformed lines and, on the first rank, of long skips; by default standard error does.
    `pin` puts them into pinned memory, from where a GPU fetches them beside its work.
    `place` continues behind that step: one rank's own or `merge_places` of all, whatever their number was.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, rank: int, world: int, place: dict | None = None,
                 micro_rows: int | None = None, warn: Warn | None = None, pin: bool = False):
        if micro_rows is not None:
            recipe = replace(recipe, batch=replace(recipe.batch, micro_rows=micro_rows))
        shape = shape_of(recipe, world)
        corpora = corpora_of(recipe, "train", tokenizer)
        for corpus in corpora:
            corpus.fingerprint  # once, and here: a file that cannot be read shows before the thread starts
        if place is not None:
            check_place(place, recipe, corpora, lanes_of_rank(recipe.data.lanes, rank, world))

        def produce(stop: Event) -> Iterator[Step]:
            return _steps(recipe, tokenizer, corpora, rank, shape, place, warn, pin, stop)

        super().__init__(produce, recipe.data.prefetch_steps, rank)


def _steps(recipe: Recipe, tokenizer: Tokenizer, corpora: list[Corpus | PreparedCorpus], rank: int, shape: Shape,
           place: dict | None, warn: Warn | None, pin: bool, stop: Event) -> Iterator[Step]:
    lane_count, length = recipe.data.lanes, recipe.batch.length
    own_lanes = lanes_of_rank(lane_count, rank, shape.world)
    workers = workers_for(recipe)
    say = (warn or to_stderr) if rank == 0 else None
    readers = []
    for corpus in corpora:
        malformed = MalformedLines(corpus, recipe.data.bad_share, lane_count, warn)
        parse = partial(parsed, corpus, tokenizer)
        readers.append(Reader(corpus, parse, recipe.run.seed, lane_count, malformed, stop, workers, say))
    try:
        lanes = {number: _lane(recipe, number, readers, place) for number in own_lanes}
        row_numbers = rows_of_rank(recipe, rank, shape.world)
        number = 0 if place is None else place["step"]
        given = _given(lanes)
        while True:
            number += 1
            rows = [lanes[row % lane_count].next_row(row, length) for row in row_numbers]
            batches = micro_batches_of(rows, shape, length, tokenizer.eot)
            after = place_after(number, lane_count, corpora, lanes)
            shown = [batch.pin() for batch in batches] if pin else batches
            before, given = given, _given(lanes)
            by_source = [now - was for now, was in zip(given, before)]
            yield Step(number, shown, after, wrap_int64(sum(map(hash_of_rows, batches))),
                       _stats(rows, batches, readers, after) | {"targets_by_source": by_source})
    finally:
        workers.close()
        for reader in readers:
            reader.close()


def _lane(recipe: Recipe, number: int, readers: list[Reader], place: dict | None) -> Lane:
    states = [{} for _ in readers] if place is None else place["lanes"][str(number)]
    streams = [Stream(number, reader, recipe.run.seed, recipe.data.block_tokens, **state)
               for reader, state in zip(readers, states)]
    return Lane(streams, [source.weight for source in recipe.data.train])


def _given(lanes: dict[int, Lane]) -> list[int]:
    """Targets that the lanes gave so far, by source."""
    return [sum(given) for given in zip(*(lane.given() for lane in lanes.values()))]


def _stats(rows: list[Row], batches: list[Batch], readers: list[Reader], after: dict) -> dict[str, Any]:
    scored = sum(int((batch.labels_BT != UNSCORED).sum()) for batch in batches)
    return {
        "scored": scored,
        "filled": scored,  # each token of a row has its target in it
        "positions": sum(batch.labels_BT.numel() for batch in batches),
        "words": sum(batch.words for batch in batches),
        "documents": sum(part.before is None for row in rows for part in row.parts),
        "cut": sum(part.before is None and part.goes_on for row in rows for part in row.parts),
        "bad_lines": sum(reader.malformed.bad for reader in readers),
        "epochs": [min(lane[source]["epoch"] for lane in after["lanes"].values()) for source in range(len(readers))],
    }

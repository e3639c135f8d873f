"""A rank's training steps on pairs: endless, prepared ahead in a thread, each with the place to continue from.

Every rank reads and tokenizes all pairs, which is cheap beside training on them, and takes its rows of each batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from threading import Event
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape, shape_of
from dstrain.data.hashing import wrap_int64
from dstrain.data.pairs.blocks import Block, BlockStart, blocks_from
from dstrain.data.pairs.pair import pair_parser
from dstrain.data.pairs.pair_batch import PairBatch, collate_pairs, filler_pairs, hash_of_pairs
from dstrain.data.pairs.pair_validation import valid_pairs, valid_texts
from dstrain.data.pairs.stream import STATE, Mix, PairStream
from dstrain.data.pairs.windows import Window, next_window, rows_of_rank
from dstrain.data.reading.malformed import MalformedLines, Warn, to_stderr, unsaid
from dstrain.data.reading.pair_sources import PairCorpus, pair_corpora, pairs_bytes
from dstrain.data.scan import Reader
from dstrain.data.step_feed import Step, StepFeed
from dstrain.data.tokenizers.pair_tokenizer import PairTokenizer
from dstrain.data.window_place import WindowPlace, check_window_place, merge_window_places
from dstrain.data.workers import Parse, Workers

__all__ = ["PairFeed", "Step", "filler_pairs", "merge_window_places", "pairs_bytes", "valid_pairs", "valid_texts"]


class PairFeed(StepFeed):
    """One rank's steps, for ever, prepared in a thread and `data.prefetch_steps` ahead.

    `warn` hears of malformed lines and of long skips on the first rank; by default standard error does.
    `pin` puts the batches into pinned memory, from where a GPU fetches them beside its work.
    `place` continues behind that step, on any number of ranks.
    """

    def __init__(self, recipe: Recipe, tokenizer: PairTokenizer, rank: int, world: int, place: dict | None = None,
                 warn: Warn | None = None, pin: bool = False):
        shape = shape_of(recipe, world)
        corpora = pair_corpora(recipe.data, "train")
        for corpus in corpora:
            corpus.fingerprint  # once, and here: a file that cannot be read shows before the thread starts
        if place is not None:
            check_window_place(place, recipe, corpora, STATE)

        def produce(stop: Event) -> Iterator[Step]:
            return _steps(recipe, tokenizer, corpora, rank, shape, place, warn or to_stderr, pin, stop)

        super().__init__(produce, recipe.data.prefetch_steps, rank)


def _steps(recipe: Recipe, tokenizer: PairTokenizer, corpora: Sequence[PairCorpus], rank: int, shape: Shape,
           place: dict | None, warn: Warn, pin: bool, stop: Event) -> Iterator[Step]:
    at = WindowPlace.of(place, corpora, recipe, STATE)
    seed, start, first = recipe.run.seed, tokenizer.target.eot, rank == 0
    workers = Workers(recipe.data.workers)
    tallies = [MalformedLines(corpus, recipe.data.bad_share, 1, warn if first else unsaid) for corpus in corpora]
    streams: list[PairStream] = []
    try:
        for corpus, tally, state in zip(corpora, tallies, at.sources):
            parse = pair_parser(corpus, tokenizer, recipe.batch.length, recipe.batch.over_long)
            blocks = partial(_blocks, corpus, parse, seed, tally, workers, warn if first else None, stop)
            streams.append(PairStream(corpus.name, blocks, state))
        mix = Mix(streams, [source.weight for source in recipe.data.train])
        while True:
            window = next_window(at.window, mix, recipe.batch.window)
            batches = window.batches(recipe.batch.tokens, seed)
            if at.batch >= len(batches):
                raise UserError(f"the checkpoint stands at batch {at.batch} of a window that has {len(batches)}: the "
                                f"data have changed since. Restore them, or start the run anew with --fresh")
            behind = [stream.state() for stream in streams]
            for rows in batches[at.batch:]:
                last = at.batch == len(batches) - 1
                at = at.next_window(behind) if last else at.next_batch()
                parts = rows_of_rank(len(rows), rank, shape)
                made = [_micro_batch(window, rows, part, start) for part in parts]
                hashed = wrap_int64(sum(map(hash_of_pairs, made)))
                own = [rows[row] for part in parts for row in part]
                stats = _stats(window, own, made, len(corpora)) | {
                    "epochs": [stream.epoch for stream in streams],
                    "dropped": window.over_long if first and rows is batches[0] else 0,
                    "window_dropped": window.over_long if first else 0,
                    "bad_lines": sum(tally.bad for tally in tallies) if first else 0}
                yield Step(at.step, [batch.pin() for batch in made] if pin else made, at.as_json(), hashed, stats)
    finally:
        workers.close()
        for stream in streams:
            stream.close()


def _blocks(corpus: PairCorpus, parse: Parse, seed: int, tally: MalformedLines, workers: Workers, say: Warn | None,
            stop: Event, start: BlockStart, ends: Event) -> Iterator[Block]:
    """One source's, until the feed is to `stop` or the source's own thread `ends`."""
    return blocks_from(start, Reader(corpus, parse, seed, 1, tally, _Either(stop, ends), workers, say), seed)


class _Either:
    """Set when one of two events is."""

    def __init__(self, *events: Event):
        self._events = events

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._events)


def _micro_batch(window: Window, rows: Sequence[int], part: range, start: int) -> PairBatch:
    return collate_pairs([window.pairs[rows[row]] for row in part], part, start)


def _stats(window: Window, own: Sequence[int], made: Sequence[PairBatch], source_count: int) -> dict[str, Any]:
    by_source = [0] * source_count
    for place in own:
        by_source[window.sources[place]] += len(window.pairs[place].targets)
    return {
        "scored": sum(by_source),
        "filled": sum(batch.filled() for batch in made),
        "positions": sum(batch.positions() for batch in made),
        "words": sum(batch.words for batch in made),
        "documents": len(own),
        "cut": sum(window.pairs[place].over_long for place in own),
        "targets_by_source": by_source,
    }

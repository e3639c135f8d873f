"""One pass over a source: its files in an order, and of their documents those that some lanes want."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple, Union

from dstrain.data.reading.malformed import Warn
from dstrain.data.parsed import Content
from dstrain.data.preparing.prepared import PreparedCorpus
from dstrain.data.shares import lane_of
from dstrain.data.reading.pair_sources import PairCorpus
from dstrain.data.reading.sources import Corpus

AnyCorpus = Union[Corpus, PreparedCorpus, PairCorpus]

_LOOK_AT_STOP_EVERY = 256
_LONG_SKIP_S = 2.0


class Stopped(Exception):
    """The feed was closed while this thread was reading."""


class Place(NamedTuple):
    """A document's place within an epoch."""

    file: int
    """place of the file in the epoch's order of files"""
    document: int


@dataclass(frozen=True)
class Raw:
    """A document as it stands in its file: what waits for its lane."""

    lane: int
    place: Place
    file: int
    content: Content


def documents_for(corpus: AnyCorpus, order: Sequence[int], firsts: dict[int, Place], lane_count: int,
                  stop: Event, say: Warn | None = None) -> Generator[Raw, None, int | None]:
    """In the order of the files, for the lanes in `firsts`, each from its first place on.

    Returns the number of documents of all lanes, or None when it began behind the first one.
    """
    start = min(firsts.values())
    skip = _Skip(corpus, say if start > (0, 0) else None)
    passed = 0
    for position in range(start.file, len(order)):
        file = order[position]
        for number, content in corpus.documents(file, start.document if position == start.file else 0):
            passed += 1
            if passed % _LOOK_AT_STOP_EVERY == 0 and stop.is_set():
                raise Stopped
            lane, place = lane_of(corpus.number, file, number, lane_count), Place(position, number)
            if lane in firsts and place >= firsts[lane]:
                skip.ends(passed - 1)
                yield Raw(lane, place, file, content)
    return passed if start == (0, 0) else None


class _Skip:
    """Says how long a stream took to come to its place, if that was long."""

    def __init__(self, corpus: AnyCorpus, say: Warn | None):
        self._corpus, self._say, self._began = corpus, say, time.monotonic()

    def ends(self, passed: int) -> None:
        if self._say is None:
            return
        took_s = time.monotonic() - self._began
        if took_s > _LONG_SKIP_S:
            self._say(f"{self._corpus.place}: skipped {passed:,} documents in {took_s:.1f} s"
                      f"{self._corpus.shortens_skips}")
        self._say = None

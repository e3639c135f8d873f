"""Malformed lines of one source: counted, the first of each file named, and too many of them an error."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable

from dstrain.config.errors import UserError
from dstrain.data.reading.sources import Corpus

NAMED_PER_FILE = 3
# Before so many lines of all lanes a share says little: up to here the limit is what this many would allow.
FEWEST = 10_000

Warn = Callable[[str], None]


class MalformedLines:
    """What one rank's lanes have read of a source, each in its epoch.

    Each lane is judged by itself: what it reads does not depend on the number of ranks or on interruptions, so data
    that are refused on one shape are refused on all.
    """

    def __init__(self, corpus: Corpus, bad_share: float, lane_count: int, warn: Warn | None = None):
        self.bad = 0
        """malformed lines met since this process began"""
        self._corpus, self._bad_share, self._lane_count = corpus, bad_share, lane_count
        self._warn = warn or to_stderr
        self._seen: Counter[int] = Counter()  # by lane: lines of its epoch
        self._bad: Counter[int] = Counter()  # by lane: malformed ones among them
        self._named: Counter[int] = Counter()  # by file
        self._last: dict[int, str] = {}  # by lane

    def continue_from(self, lane: int, seen: int, bad: int) -> None:
        """Adds what the lane had read of its epoch before an interruption."""
        self._seen[lane] += seen
        self._bad[lane] += bad

    def see(self, lane: int) -> None:
        """One more line, of either kind."""
        self._seen[lane] += 1

    def skip(self, lane: int, file_number: int, document: int, reason: str) -> None:
        """That line is malformed; an error when there are too many already."""
        self.bad += 1
        self._bad[lane] += 1
        self._last[lane] = where = f"{self._corpus.where(file_number, document)}: {reason}"
        if self._bad[lane] > self._limit(max(self._seen[lane], FEWEST / self._lane_count)):
            self._refuse(lane)
        if self._named[file_number] < NAMED_PER_FILE:
            self._named[file_number] += 1
            rest = "; further ones in this file are only counted" * (self._named[file_number] == NAMED_PER_FILE)
            self._warn(f"{where}: skipped{rest}")

    def end_of_epoch(self, lane: int) -> None:
        """At the end of the source the share counts however small the source is."""
        if self._bad[lane] > self._limit(self._seen[lane]):
            self._refuse(lane)
        del self._seen[lane], self._bad[lane]

    def _limit(self, lines: float) -> float:
        return most_of_lane(lines, self._bad_share, self._lane_count)

    def _refuse(self, lane: int) -> None:
        bad, seen = self._bad[lane], self._seen[lane]
        last = self._last.get(lane, "one before the run was interrupted")
        of_lane = f" for lane {lane} of {self._lane_count}" * (self._lane_count > 1)
        raise UserError(f"{self._corpus.name}: {bad} of {seen} lines read{of_lane} are malformed, more than "
                        f"data.bad_share {self._bad_share:g} allows; the last is {last}. Correct the lines or "
                        f"{self._corpus.what_to_correct}, or raise data.bad_share")


def most_of_lane(lines: float, bad_share: float, lane_count: int) -> float:
    """The share of a lane's lines; where there are several lanes, and as many more as chance may deal to one."""
    expected = bad_share * lines
    if lane_count == 1 or not bad_share:
        return expected
    return expected + 3 * math.sqrt(expected) + 1  # three standard deviations, and a single line always


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def unsaid(line: str) -> None:
    """Where every rank meets the same lines: the first one says so."""

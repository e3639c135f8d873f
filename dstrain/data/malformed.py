"""Malformed lines of one source: counted, the first of each file named, and too many of them an error."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

from dstrain.config.errors import UserError
from dstrain.data.sources import Corpus

NAMED_PER_FILE = 3
# Before so many lines a share says little: up to here the limit is what this many would allow.
_FEWEST = 10_000

Warn = Callable[[str], None]


class MalformedLines:
    """What one rank has read of a source, epoch by epoch. `rank_share` of all lines are this rank's."""

    def __init__(self, corpus: Corpus, bad_share: float, rank_share: float, warn: Warn | None = None):
        self.bad = 0
        """malformed lines met since this process began"""
        self._corpus, self._bad_share, self._rank_share = corpus, bad_share, rank_share
        self._warn = warn or _to_stderr
        self._seen_in: Counter[int] = Counter()  # by epoch: lines
        self._bad_in: Counter[int] = Counter()  # by epoch: malformed ones among them
        self._named: Counter[int] = Counter()  # by file
        self._first_whole_epoch = 0
        self._last = ""

    def continue_from(self, epoch: int, seen: int, bad: int) -> None:
        """Adds what a lane had read of its epoch before an interruption: the limit grows with what was read.

        The lines of lanes that were further are not known, so only later epochs are judged as a whole.
        """
        self._seen_in[epoch] += seen
        self._bad_in[epoch] += bad
        self._first_whole_epoch = max(self._first_whole_epoch, epoch + 1)

    def see(self, epoch: int) -> None:
        """One more line, of either kind."""
        self._seen_in[epoch] += 1

    def skip(self, epoch: int, file_number: int, document: int, reason: str) -> None:
        """That line is malformed; an error when there are too many already."""
        self.bad += 1
        self._bad_in[epoch] += 1
        self._last = where = f"{self._corpus.where(file_number, document)}: {reason}"
        if self._bad_in[epoch] > self._bad_share * max(self._seen_in[epoch], _FEWEST):
            self._refuse(epoch)
        if self._named[file_number] < NAMED_PER_FILE:
            self._named[file_number] += 1
            rest = "; further ones in this file are only counted" * (self._named[file_number] == NAMED_PER_FILE)
            self._warn(f"{where}: skipped{rest}")

    def end_of_epoch(self, epoch: int) -> None:
        """At the end of the source the share counts however small the source is.

        A rank's few bad lines are held against the lines of all ranks: data that pass on one rank pass on any number.
        """
        whole = epoch >= self._first_whole_epoch
        if whole and self._bad_in[epoch] > self._bad_share * self._seen_in[epoch] / self._rank_share:
            self._refuse(epoch)
        del self._seen_in[epoch], self._bad_in[epoch]

    def _refuse(self, epoch: int) -> None:
        bad, seen = self._bad_in[epoch], self._seen_in[epoch]
        raise UserError(f"{self._corpus.name}: {bad} of {seen} lines read are malformed, more than data.bad_share "
                        f"{self._bad_share:g} allows; the last is {self._last}. Correct the lines or "
                        f"{self._corpus.place}.text_field, or raise data.bad_share")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

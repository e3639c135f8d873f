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
    """What one rank has read of a source: `seen` lines, `bad` of them malformed. `rank_share` of all lines are its."""

    def __init__(self, corpus: Corpus, bad_share: float, rank_share: float, warn: Warn | None = None):
        self.seen = self.bad = 0
        self._corpus, self._bad_share, self._rank_share = corpus, bad_share, rank_share
        self._warn = warn or _to_stderr
        self._named: Counter[int] = Counter()  # by file
        self._example = ""

    def continue_from(self, seen: int, bad: int) -> None:
        """Adds what was read before an interruption, so that a resumed run judges as the first would have."""
        self.seen += seen
        self.bad += bad

    def skip(self, file_number: int, document: int, reason: str) -> None:
        """One more malformed line; an error when that is too large a share already."""
        self.bad += 1
        self._example = where = f"{self._corpus.where(file_number, document)}: {reason}"
        if self.bad > self._bad_share * max(self.seen, _FEWEST):
            self._refuse()
        if self._named[file_number] < NAMED_PER_FILE:
            self._named[file_number] += 1
            rest = "; further ones in this file are only counted" * (self._named[file_number] == NAMED_PER_FILE)
            self._warn(f"{where}: skipped{rest}")

    def end_of_pass(self) -> None:
        """At the end of the source the share counts however small the source is.

        A rank's few bad lines are held against the lines of all ranks: data that pass on one rank pass on any number.
        """
        if self.bad > self._bad_share * self.seen / self._rank_share:
            self._refuse()

    def _refuse(self) -> None:
        raise UserError(f"{self._corpus.name}: {self.bad} of {self.seen} lines read are malformed, more than "
                        f"data.bad_share {self._bad_share:g} allows; the last is {self._example}. Correct the "
                        f"lines or {self._corpus.place}.text_field, or raise data.bad_share")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

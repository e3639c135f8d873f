"""Which lane a document belongs to: a function of (source, file, document), not of the seed, the ranks or the text."""

from __future__ import annotations

from functools import lru_cache

from dstrain.data.hashing import LANES, permutation


def lane_of(source: int, file: int, document: int, lanes: int) -> int:
    """The lane of document number `document` in file number `file`.

    L documents in a row of one file go to L different lanes, and so do the n-th documents of L files in a row: even
    shares for files of one document, for one file of many, and between. Each L x L square of them has an order of its
    own, so that no regular pattern (long, short, long, short) falls on the same lanes every time.
    """
    if lanes == 1:
        return 0
    return _deal(source, file // lanes, document // lanes, lanes)[(file + document) % lanes]


@lru_cache(maxsize=4096)
def _deal(source: int, files: int, documents: int, lanes: int) -> tuple[int, ...]:
    return tuple(permutation(lanes, LANES, source, files, documents))

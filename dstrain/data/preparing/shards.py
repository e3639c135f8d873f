"""A token shard: one file with the tokens of some documents in a row, and where each of them stands in its source.

    tokens | ends, documents: uint64 | files, words: uint32 | description: JSON | SHA-256 of it | its length | MAGIC

`documents` are numbers in their file, `ends` count tokens. It knows nothing of lanes, lengths or seeds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dstrain.config.prepared_form import MAGIC, TAIL_BYTES

_ALIGNED = 8
_READ_BYTES = 1 << 22
_NUMBERED_AT_ONCE = 8192
COLUMNS = (("ends", "<u8"), ("documents", "<u8"), ("files", "<u4"), ("words", "<u4"))
"""what the index has of each document"""
INDEX_BYTES = sum(np.dtype(dtype).itemsize for _, dtype in COLUMNS)


class DamagedShard(Exception):
    """Not a whole shard: says why."""


class Kept(NamedTuple):
    """A document in a shard, not read yet."""

    shard: Shard
    row: int


@dataclass(frozen=True)
class Shard:
    """A whole shard, by its description; what it holds is mapped when it is asked for."""

    path: Path
    dtype: str
    tokens: int
    rows: int
    first: tuple[int, int]
    """(file, document) from which on it holds the source"""
    next: tuple[int, int]
    """(file, document) from which on the next shard does"""
    last: bool
    """the source ends with it"""
    malformed: dict[int, tuple[str, str]]
    """row -> where that is, and why it holds no document"""
    sums: dict[str, int]
    """`words`, `text_bytes` of its tokens, and `read_bytes` of the source that they were made of"""
    sha256: str
    """of all before the description"""

    @staticmethod
    def opened(path: Path) -> Shard:
        """Reads the description, and checks it and the file's size: cheap, and enough against a torn file."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read(TAIL_BYTES)
            if len(tail) < TAIL_BYTES or not tail.endswith(MAGIC):
                raise DamagedShard("its end is missing")
            length = int.from_bytes(tail[32:40], "little")
            file.seek(max(0, size - TAIL_BYTES - length))
            text = file.read(length)
        if hashlib.sha256(text).digest() != tail[:32]:
            raise DamagedShard("its description is damaged")
        fields = json.loads(text)
        fields["malformed"] = {row: (where, reason) for row, where, reason in fields["malformed"]}
        shard = Shard(path=path, **fields | {name: tuple(fields[name]) for name in ("first", "next")})
        if size != shard._index_start + INDEX_BYTES * shard.rows + length + TAIL_BYTES:
            raise DamagedShard(f"it has {size} bytes, not what {shard.tokens} tokens in {shard.rows} documents take")
        return shard

    def continuing(self, first: tuple[int, int]) -> Shard:
        """This one, if it begins where the one before it ends: a whole shard may be another one's copy."""
        if self.first != first:
            raise DamagedShard(f"it begins at file {self.first[0]}, document {self.first[1]}, not at {first[0]}, "
                               f"{first[1]}")
        return self

    def check(self) -> None:
        """Reads all of it and compares the hash."""
        digest, left = hashlib.sha256(), self._index_start + INDEX_BYTES * self.rows
        with open(self.path, "rb") as file:
            while left:
                piece = file.read(min(_READ_BYTES, left))
                if not piece:
                    raise DamagedShard("it is cut off")
                digest.update(piece)
                left -= len(piece)
        if digest.hexdigest() != self.sha256:
            raise DamagedShard("its contents have changed (other SHA-256)")

    def document(self, row: int) -> tuple[np.ndarray, int, str | None]:
        """(targets as int32, words, why malformed) of a document."""
        ends = self._index["ends"]
        targets = self._tokens[int(ends[row - 1]) if row else 0:int(ends[row])].astype(np.int32)
        return targets, int(self._index["words"][row]), self.malformed.get(row, (None, None))[1]

    def documents_of(self, file: int, first: int) -> Iterator[tuple[int, Kept]]:
        """(document number, the document) of one file, from document `first` on."""
        files, documents = self._index["files"], self._index["documents"]
        low, high = (int(np.searchsorted(files, np.uint32(file), side)) for side in ("left", "right"))
        low += int(np.searchsorted(documents[low:high], np.uint64(first)))
        for start in range(low, high, _NUMBERED_AT_ONCE):
            numbers = documents[start:min(start + _NUMBERED_AT_ONCE, high)].tolist()
            yield from ((number, Kept(self, row)) for row, number in enumerate(numbers, start))

    def row_of(self, file: int, document: int) -> int | None:
        for _, kept in self.documents_of(file, document):
            return kept.row if int(self._index["documents"][kept.row]) == document else None
        return None

    @property
    def _index_start(self) -> int:
        return padded(self.tokens * np.dtype(self.dtype).itemsize)

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.asarray(np.memmap(self.path, mode="r", dtype=np.uint8)) if self.rows else np.empty(0, np.uint8)

    @cached_property
    def _tokens(self) -> np.ndarray:
        return self._bytes[:self.tokens * np.dtype(self.dtype).itemsize].view(self.dtype)

    @cached_property
    def _index(self) -> dict[str, np.ndarray]:
        columns, start = {}, self._index_start
        for name, dtype in COLUMNS:
            end = start + self.rows * np.dtype(dtype).itemsize
            columns[name] = self._bytes[start:end].view(dtype)
            start = end
        return columns


def padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED

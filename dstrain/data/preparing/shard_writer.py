"""Writes token shards: under another name first, which a shard loses when all of it is on the disk."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dstrain.config.prepared_form import MAGIC
from dstrain.data.preparing.shards import COLUMNS, INDEX_BYTES, Shard, padded

UNFINISHED = ".unfinished"


class ShardWriter:
    """Writes one shard: tokens as they come, the index at the end."""

    def __init__(self, path: Path, dtype: str, first: tuple[int, int]):
        self.path, self.dtype, self.first = path, dtype, first
        self.tokens = 0
        self.malformed: list[tuple[int, str, str]] = []
        self._unfinished = path.with_name(path.name + UNFINISHED)
        self._file: BinaryIO = open(self._unfinished, "wb", buffering=1 << 20)
        self._digest = hashlib.sha256()
        self._columns = {name: array("I" if dtype == "<u4" else "Q") for name, dtype in COLUMNS}
        self._sums = {"words": 0, "text_bytes": 0, "read_bytes": 0}

    @property
    def rows(self) -> int:
        return len(self._columns["ends"])

    @property
    def read_bytes(self) -> int:
        return self._sums["read_bytes"]

    @property
    def bytes(self) -> int:
        """What it takes on the disk, nearly."""
        return self.tokens * np.dtype(self.dtype).itemsize + INDEX_BYTES * self.rows

    def add(self, file: int, document: int, targets: np.ndarray, words: int, text_bytes: int, read_bytes: int) -> None:
        self._write(targets.astype(self.dtype))
        self.tokens += len(targets)
        for name, value in (("ends", self.tokens), ("documents", document), ("files", file), ("words", words)):
            self._columns[name].append(value)
        for name, value in (("words", words), ("text_bytes", text_bytes), ("read_bytes", read_bytes)):
            self._sums[name] += value

    def add_malformed(self, file: int, document: int, where: str, reason: str, read_bytes: int) -> None:
        self.malformed.append((self.rows, where, reason))
        self.add(file, document, np.empty(0, np.int32), 0, 0, read_bytes)

    def commit(self, after: tuple[int, int], last: bool) -> Shard:
        """Publishes the shard: from here on it is whole, whatever happens."""
        size = self.tokens * np.dtype(self.dtype).itemsize
        self._write(np.zeros(padded(size) - size, np.uint8))
        for name, dtype in COLUMNS:
            self._write(np.array(self._columns[name], dtype=dtype))
        description: dict[str, Any] = {
            "dtype": self.dtype, "tokens": self.tokens, "rows": self.rows, "first": self.first, "next": after,
            "last": last, "malformed": self.malformed, "sums": self._sums, "sha256": self._digest.hexdigest()}
        text = json.dumps(description).encode()
        self._file.write(text + hashlib.sha256(text).digest() + len(text).to_bytes(8, "little") + MAGIC)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        publish(self._unfinished, self.path)
        return Shard.opened(self.path)

    def abandon(self) -> None:
        """Leaves nothing behind; after `commit` there is nothing to leave."""
        with suppress(OSError):  # on a full disk what is left cannot be written, and need not be
            self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def _write(self, values: np.ndarray) -> None:
        self._file.write(memoryview(values).cast("B") if len(values) else b"")
        self._digest.update(values)


def publish(unfinished: Path, path: Path) -> None:
    """Gives a file that is whole and on the disk its name, and sees to it that the name is on the disk too."""
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

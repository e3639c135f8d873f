"""A file that is written to at its end, at once: nothing waits in a buffer whose writing may fail later."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator


class Appended:
    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "ab", buffering=0)
        _sync(path.parent)  # that the file is there at all is a line of its folder

    def append(self, data: bytes) -> None:
        with self._named():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest):]

    def sync(self) -> None:
        """Everything that was appended is on the disk when this returns."""
        with self._named():
            os.fsync(self._file.fileno())

    def is_gone(self) -> bool:
        """Whether its path leads no longer here: what is appended would be found by nobody."""
        here = os.fstat(self._file.fileno())
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def close(self) -> None:
        self._file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """The system's errors do not say which file it is."""
        try:
            yield
        except OSError as error:
            error.filename = str(self.path)
            raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

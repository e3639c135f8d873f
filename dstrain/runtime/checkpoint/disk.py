"""What a save does to the disk: each of its file operations is one of these functions.

They are always called as `disk.name(...)`: a fault put in place of one of them meets every call of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Callable, Iterator

from dstrain.config.errors import Trouble
from dstrain.config.os_errors import FULL, remedy

WRITE_AT_ONCE_BYTES = 64 * 2**20
CHECK_AT_ONCE_BYTES = 2**20


def make_folder(path: Path) -> None:
    """With its parents; each of them is on the disk when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def create_file(path: Path, head: bytes, size: int) -> None:
    """A file of `size` bytes that begins with `head`; the rest is zeros, to be filled by `write_at`. Not synced yet."""
    with named(path), open(path, "x+b") as file:
        _write_whole(file.fileno(), head, 0)
        file.truncate(size)
        check_at(file.fileno(), 0, memoryview(head), path)


def write_at(file: int, offset: int, data: memoryview) -> None:
    """Into the open file of this descriptor. Not synced yet."""
    _write_whole(file, data, offset)


def write_file(path: Path, data: bytes) -> None:
    """The whole file, on the disk when this returns."""
    with named(path), open(path, "w+b") as file:
        _write_whole(file.fileno(), data, 0)
        os.fsync(file.fileno())
        check_at(file.fileno(), 0, memoryview(data), path)


def check_at(file: int, offset: int, data: memoryview, path: Path) -> None:
    """What was written there is what is read: a write may be cut short without a word, and a hash that is taken of the
    file afterwards would vouch for it."""
    for first in range(0, data.nbytes, CHECK_AT_ONCE_BYTES):
        part = data[first:first + CHECK_AT_ONCE_BYTES]
        found = bytearray(part.nbytes)
        got = _read_whole(file, offset + first, memoryview(found))
        if got < part.nbytes or found != part:
            raise OSError(errno.EIO, "what was written reads back otherwise", str(path))


def sync_file(file: int) -> None:
    """What was written to this descriptor is on the disk when this returns."""
    os.fsync(file)


def sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with named(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """In one step: who looks sees the old name or the new one. A file `new` is replaced; a folder must not be there."""
    os.rename(old, new)


def read_at(file: int, offset: int, buffer: memoryview) -> int:
    """Fill the buffer from the open file; says how many bytes there were."""
    return os.preadv(file, [buffer], offset)


def remove_tree(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_file(path: Path) -> None:
    path.unlink()


def free_bytes(folder: Path) -> int | None:
    """What the file system says that can still be written; None where it does not say. Never to be trusted."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize if space.f_blocks else None


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """What fails on a descriptor does not say of which file it is."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of a file that is there, for `write_at` and `sync_file`."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        with named(path):
            yield descriptor
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Every file and every folder below, and the folder itself: whoever wrote them."""
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            with opened(Path(where) / name) as file:
                sync_file(file)
        sync_folder(Path(where))


def replace_with(path: Path, data: bytes, beside: Path, check: Callable[[], None] = lambda: None) -> None:
    """A small file's new contents, in one step: whoever reads sees the old or the new.

    They are written to `beside`; what `check` raises then leaves the old.
    """
    write_file(beside, data)
    check()
    rename(beside, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def in_words(what: str, folder: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """An error of the disk becomes one line: what could not be done, where, why, and what to do."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        room = _room(folder, needed_bytes) if error.errno in FULL else ""
        raise Trouble(f"cannot {what}: {error.strerror or error}{where}{room}; {remedy(error)}") from error


def need(needed_bytes: int, folder: Path, what: str) -> None:
    """Refuse what is known beforehand not to fit."""
    free = free_bytes(folder)
    if free is not None and free < needed_bytes:
        raise Trouble(f"cannot {what}: it needs {in_units(needed_bytes)}, and {folder} has {in_units(free)} free; "
                      "make room, then the same command goes on from the last committed checkpoint"
                      ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_units(size: float) -> str:
    """Bytes for people."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" else f"{size:,.1f} {units[0]}"


def _room(folder: Path, needed_bytes: int | None) -> str:
    try:
        free = free_bytes(folder)
    except OSError:  # it is about how the error is worded: without a figure then
        free = None
    said = [f"{in_units(needed_bytes)} needed"] if needed_bytes is not None else []
    said += [f"{in_units(free)} free"] if free is not None else []
    return f", {' in all, '.join(said)}" if said else ""


def _write_whole(file: int, data: bytes | memoryview, offset: int) -> None:
    """A write may take less than it was given, without an error: so until all is written."""
    left = memoryview(data)
    while left.nbytes:
        written = os.pwrite(file, left[:WRITE_AT_ONCE_BYTES], offset)
        left, offset = left[written:], offset + written


def _read_whole(file: int, offset: int, buffer: memoryview) -> int:
    """So a read may give less than there is. Says how many bytes there were up to the file's end."""
    got = 0
    while got < buffer.nbytes and (more := read_at(file, offset + got, buffer[got:])):
        got += more
    return got

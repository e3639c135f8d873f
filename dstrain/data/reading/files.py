"""Files on this machine: what they unpack to, and what is wrong with one."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import zstandard

from dstrain.config.errors import UserError
from dstrain.config.source_files import packing_of
from dstrain.data.reading.zstd import open_zst

SAMPLE_BYTES = 65_536


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes; what is wrong with the file itself becomes the user's error, with its name."""
    with sound(path), _open(path) as stream:
        yield stream


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """What goes wrong within, as the user's error: unreadable, not UTF-8, damaged or cut off."""
    try:
        with readable(path):
            yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: line {_first_line_not_utf8(path)} is not UTF-8 ({error.reason}); "
                        f"convert the file, for example with iconv -t UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged or cut off ({reason}); fetch or pack it again") from error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    try:
        yield
    except gzip.BadGzipFile:  # an OSError, too, and said better
        raise
    except OSError as error:
        if error.errno is None:  # not the system's: arrow's word for contents that it cannot make sense of
            raise pa.ArrowException(str(error)) from error
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); make it readable, or name other "
                        f"files") from error


def fingerprint_of(files: Sequence[Path]) -> str:
    """A digest of sizes and samples of their contents, without their names: files may move.

    A change inside a large file that leaves its size, start, middle and end as they were goes unnoticed.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with readable(path), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "little"))
            for start in sorted({0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)}):
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with gzip.open(path, "rb") if packing_of(path) == ".gz" else open(path, "rb") as file:
        yield open_zst(file) if packing_of(path) == ".zst" else file


def _first_line_not_utf8(path: Path) -> int:
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} is UTF-8 after all")

"""The bytes in a .zst file: any number of frames, as a stream that knows when it was cut off."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

# What is unpacked at once. `decompressobj` is the one part of the library that tells a whole frame from a cut one, and
# it unpacks all that it is given: so it is given little where the file has been packed tightly.
_UNPACKED_BYTES = 131_072
_LEAST_BYTES, _MOST_BYTES = 64, 8_192
# Files packed with --long=31 need it; memory is taken as a frame asks for it.
_LARGEST_WINDOW = 2**31
_MOST_BLOCKS = 20_000


def open_zst(file: BinaryIO) -> io.BufferedReader:
    """Raises EOFError where the file ends within a frame, zstandard.ZstdError where it is damaged."""
    return io.BufferedReader(_Unpacked(file), _UNPACKED_BYTES)


def unpacked_bytes(file: BinaryIO) -> int | None:
    """What the frames say of their sizes, walked from block to block without unpacking; None where one does not tell.

    A first frame of more than _MOST_BLOCKS blocks (2.6 GB) is taken for the only one.
    """
    total = 0
    while start := file.read(18):
        if start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F:  # a skippable frame: its size follows
            file.seek(8 + int.from_bytes(start[4:8], "little") - len(start), io.SEEK_CUR)
            continue
        try:
            frame = zstandard.get_frame_parameters(start)
            file.seek(zstandard.frame_header_size(start) - len(start), io.SEEK_CUR)
        except zstandard.ZstdError:
            return None
        if frame.content_size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            return None
        if not _behind_blocks(file):
            return frame.content_size if total == 0 else None
        file.seek(4 * frame.has_checksum, io.SEEK_CUR)
        total += frame.content_size
    return total


def _behind_blocks(file: BinaryIO) -> bool:
    """Moves behind a frame's last block; False when there are too many to go on."""
    for _ in range(_MOST_BLOCKS):
        header = int.from_bytes(file.read(3), "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        file.seek(1 if kind == 1 else size, io.SEEK_CUR)  # kind 1: one byte, said `size` times
        if last:
            return True
    return False


class _Unpacked(io.RawIOBase):
    def __init__(self, file: BinaryIO):
        self._pieces = _pieces(file)
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        if not self._held:
            self._held = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    packed = unpacked = 0
    size = _LEAST_BYTES
    frame = None
    while more := file.read(size):
        packed += len(more)
        while more:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
            piece = frame.decompress(more)
            unpacked += len(piece)
            more, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
            if piece:
                yield piece
        size = min(max(_UNPACKED_BYTES * packed // max(unpacked, 1), _LEAST_BYTES), 2 * size, _MOST_BYTES)
    if frame is not None:
        raise EOFError("the last frame has no end")

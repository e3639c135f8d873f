"""safetensors files that many ranks write at once, each its own ranges, and that are read without being loaded whole.

The format: eight bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, then the
data. Only float32 is written. Writing by range is why this is not the safetensors package; the files are plain
safetensors all the same, and a test opens them with it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Iterable

import numpy as np
import torch

from dstrain.runtime.checkpoint import disk

BYTES = 4  # of a float32
MOST_HEADER_BYTES = 100_000_000
"""the format's own limit: about a million tensors"""
MOST_DIMENSIONS = 8


class BadTensorFile(Exception):
    """Names the file and what is wrong with it."""


def create(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of the right size with its header, all zeros: to be filled by `write_ranges`."""
    disk.create_file(path, *_header(shapes))


def size_of(shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes of such a file."""
    return _header(shapes)[1]


def write_ranges(path: Path, ranges: Iterable[tuple[str, int, torch.Tensor]]) -> None:
    """Write (name, start, values) triples into a file made by `create`, and wait until they are on the disk."""
    places, _ = _read_header(path)
    with disk.opened(path) as file:
        for name, start, values in ranges:
            first, _, _ = places[name]
            data = memoryview(values.detach().to("cpu", torch.float32).contiguous().numpy()).cast("B")
            disk.write_at(file, first + BYTES * start, data)
            disk.check_at(file, first + BYTES * start, data, path)
        disk.sync_file(file)


class TensorFile:
    """Read access by name: tensors are views of the mapped file, so a slice touches only its own pages."""

    def __init__(self, path: Path):
        self.path = path
        self._places, size = _read_header(path)
        # mode "c" is private: the views can be written to, the file stays as it is.
        self._bytes = np.memmap(path, dtype=np.uint8, mode="c") if size else np.zeros(0, np.uint8)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (_, _, shape) in self._places.items()}

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self._places:
            raise BadTensorFile(f"{self.path}: holds no tensor {name!r}")
        first, end, shape = self._places[name]
        part = self._bytes[first:end]
        aligned = part if first % BYTES == 0 else part.copy()  # only dstrain's own headers are sure to be aligned
        return torch.from_numpy(aligned.view(np.float32)).view(shape)


def _header(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """The bytes before the tensors, and the size of the whole file."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = BYTES * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + end


def _read_header(path: Path) -> tuple[dict[str, tuple[int, int, tuple[int, ...]]], int]:
    """{name: (first byte, end byte, shape)} and the file's size; every claim of the header is checked.

    The tensors must fill the rest of the file, one after the other: nothing overlaps, nothing is left unsaid.
    """
    size = path.stat().st_size
    try:
        with disk.named(path), open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MOST_HEADER_BYTES):
                raise BadTensorFile(f"{path}: its header claims {length} bytes in a file of {size}")
            header = json.loads(file.read(length), object_pairs_hook=_without_doubles)
        header.pop("__metadata__", None)
        places = {name: _place(path, name, entry, 8 + length, size) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadTensorFile(f"{path}: its header cannot be read ({_short(error)})") from None
    end = 8 + length
    for name, (first, last, _) in sorted(places.items(), key=lambda item: item[1][:2]):
        if first != end:
            raise BadTensorFile(f"{path}: {_short(name)} begins at byte {first} of the file, but what stands before "
                                f"it ends at {end}")
        end = last
    if end != size:
        raise BadTensorFile(f"{path}: its tensors end at byte {end} of {size}")
    return places, size


def _place(path: Path, name: str, entry: dict, begin: int, size: int) -> tuple[int, int, tuple[int, ...]]:
    (first, end), shape = entry["data_offsets"], tuple(entry["shape"])
    numbers = (first, end, *shape)
    if (entry["dtype"] != "F32" or len(shape) > MOST_DIMENSIONS
            or not all(type(number) is int and 0 <= number <= size for number in numbers)
            or begin + end > size or end - first != BYTES * math.prod(shape)):
        raise BadTensorFile(f"{path}: the entry of {_short(name)} does not fit the file: {_short(entry)}")
    return begin + first, begin + end, shape


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a name stand twice, and a reader take the last without a word."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {double!r} stands twice")
    return entries


def _short(thing: Any) -> str:
    text = f"{type(thing).__name__}: {thing}" if isinstance(thing, Exception) else repr(thing)
    return text if len(text) <= 200 else text[:200] + " ..."

"""safetensors files that many ranks write at once, each its own ranges, and that are read without being loaded whole.

The format: eight bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, then the
data. Only float32 is written. Writing by range is why this is not the safetensors package; the files are plain
safetensors all the same, and a test opens them with it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Iterable

import numpy as np
import torch

from dstrain.runtime.checkpoint import disk

from dstrain.runtime.checkpoint import disk

BYTES = 4  # of a float32


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
        return torch.from_numpy(self._bytes[first:end].view(np.float32)).view(shape)


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
    """{name: (first byte, end byte, shape)} and the file's size; every claim of the header is checked."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise BadTensorFile(f"{path}: its header claims {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        places = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, end = (8 + length + int(offset) for offset in entry["data_offsets"])
            shape = tuple(int(n) for n in entry["shape"])
            if (entry["dtype"] != "F32" or not 8 + length <= first <= end <= size
                    or end - first != BYTES * math.prod(shape)):
                raise BadTensorFile(f"{path}: the entry of {name!r} does not fit the file")
            places[name] = (first, end, shape)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadTensorFile(f"{path}: its header cannot be read ({error})") from None
    return places, size

"""How much text a file holds, as far as its size, its first and its last bytes tell."""

from __future__ import annotations

from pathlib import Path

from dstrain.config.source_files import kind_of, packing_of
from dstrain.data.reading.columns import parquet_text_bytes
from dstrain.data.reading.zstd import unpacked_bytes as zst_bytes


def text_bytes_in(path: Path, field: str) -> int | None:
    """Bytes, unpacked: of a parquet file its text column's; None where a packed file does not tell."""
    if kind_of(path) == ".parquet":
        return parquet_text_bytes(path, field)
    if packing_of(path) == ".gz":
        return _gz_bytes(path)
    if packing_of(path) == ".zst":
        with open(path, "rb") as file:
            return zst_bytes(file)
    return path.stat().st_size


def _gz_bytes(path: Path) -> int | None:
    size = path.stat().st_size
    if size == 0:
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, size - 4))  # a gzip file ends with the unpacked size of its last part, modulo 4 GiB
        unpacked = int.from_bytes(file.read(4), "little")
    return unpacked if unpacked >= size else None  # several parts, or more than 4 GiB: nobody knows

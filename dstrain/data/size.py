"""How much text a recipe's sources hold, from the files' sizes alone: for what a run says before it starts."""

from __future__ import annotations

from pathlib import Path

from dstrain.config.schema import Recipe
from dstrain.data.sources import Corpus


def text_bytes(recipe: Recipe) -> int | None:
    """Bytes of all training files, unpacked; None where a packed file does not tell.

    What JSON spends around the text is counted too, so this is at most.
    """
    corpora = [Corpus(source, number, "train") for number, source in enumerate(recipe.data.train)]
    sizes = [_unpacked_bytes(path) for corpus in corpora for path in corpus.files]
    return None if None in sizes else sum(sizes)


def _unpacked_bytes(path: Path) -> int | None:
    size = path.stat().st_size
    if path.suffix != ".gz" or size == 0:
        return size
    with open(path, "rb") as file:
        file.seek(max(0, size - 4))  # a gzip file ends with the unpacked size of its last part, modulo 4 GiB
        unpacked = int.from_bytes(file.read(4), "little")
    return unpacked if unpacked >= size else None  # several parts, or more than 4 GiB: nobody knows

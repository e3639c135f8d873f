"""How much text a recipe's sources hold, from the files' sizes alone: for what a run says before it starts."""

from __future__ import annotations

from dstrain.config.schema import Recipe
from dstrain.data.sources import Corpus


def text_bytes(recipe: Recipe) -> int:
    """Bytes of all training files, unpacked. What JSON spends around the text is counted too, so this is at most."""
    corpora = [Corpus(source, number, "train") for number, source in enumerate(recipe.data.train)]
    return sum(_unpacked_bytes(path) for corpus in corpora for path in corpus.files)


def _unpacked_bytes(path) -> int:
    if path.suffix != ".gz":
        return path.stat().st_size
    with open(path, "rb") as file:
        file.seek(-4, 2)  # a gzip file ends with its unpacked size, modulo 4 GiB
        return int.from_bytes(file.read(4), "little")

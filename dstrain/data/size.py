"""How much text a recipe's sources hold, without reading it: for what a run says before it starts."""

from __future__ import annotations

from dstrain.config.schema import Recipe
from dstrain.data.sources import Corpus


def text_bytes(recipe: Recipe) -> int | None:
    """Bytes of all training data, unpacked; None where a packed file or a hub dataset does not tell.

    What JSON spends around the text is counted too, so this is at most; parquet's columns are a little smaller than
    their text where values repeat.
    """
    sizes = [Corpus(source, number, "train").text_bytes() for number, source in enumerate(recipe.data.train)]
    return None if None in sizes else sum(sizes)

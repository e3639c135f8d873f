"""How much text a recipe's sources hold, without reading it: for what a run says before it starts."""

from __future__ import annotations

from dstrain.config.schema import Recipe
from dstrain.data.preparing.prepared import sources_of


def text_bytes(recipe: Recipe) -> int | None:
    """Bytes of all training data, unpacked; None where a packed file or a hub dataset does not tell.

    What JSON spends around the text is counted too, so this is at most; parquet's columns are a little smaller than
    their text where values repeat. Prepared shards know it exactly.
    """
    sizes = [corpus.text_bytes() for corpus in sources_of(recipe, "train")]
    return None if None in sizes else sum(sizes)

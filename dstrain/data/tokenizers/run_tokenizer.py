"""A run's tokenizer: as a checkpoint or a prepared folder holds it, else by name, else learned from the run's data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.bpe import learn_bpe
from dstrain.data.tokenizers.tokenizer import LEARNED, Tokenizer, load_tokenizer

TOKENIZER_FOLDER = "tokenizer"


def run_tokenizer(recipe: Recipe, folder: Path | None = None, say: Callable[[str], None] = print) -> Tokenizer:
    """`folder` is where this run has saved its tokenizer already; `say` hears of long work."""
    if folder is None and recipe.data.prepared is not None:
        folder = Path(recipe.data.prepared) / TOKENIZER_FOLDER
    if folder is None and recipe.tokenizer.startswith(LEARNED):
        return learn_bpe(recipe, say)
    return load_tokenizer(recipe.tokenizer, folder)

"""The tokenizer of grids: it has nothing to learn and encodes no text, but a run keeps it like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dstrain.config.errors import UserError
from dstrain.config.presets import GRID_TOKENIZER
from dstrain.config.schema import Recipe
from dstrain.nn.grid_ids import COLOURS, END, ROW_END, SEPARATOR, START, VOCABULARY

FILE = "tokenizer.json"
_SIGNS = {ROW_END: "\n", START: "> ", END: ".\n", SEPARATOR: "= "}


class GridTokenizer:
    name, vocab_size, eot = GRID_TOKENIZER, VOCABULARY, END

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """For a reader: a row a line."""
        return "".join(str(number) if number < COLOURS else _SIGNS[number] for number in map(int, ids))

    def token_bytes(self) -> np.ndarray:
        """A grid is no text."""
        return np.zeros(VOCABULARY, np.int64)

    def save(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        path.write_text(json.dumps({"kind": self.name, "vocab_size": self.vocab_size}) + "\n", encoding="utf-8")
        return [path]


def grid_tokenizer(recipe: Recipe, folder: Path | None = None, say: Callable[[str], None] = print) -> GridTokenizer:
    """`folder`, or a folder that the recipe names, must hold one."""
    if folder is None and recipe.tokenizer != GRID_TOKENIZER:
        folder = Path(recipe.tokenizer).expanduser()
    if folder is not None:
        _check(folder / FILE)
    return GridTokenizer()


def _check(path: Path) -> None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer: {path} cannot be read ({type(error).__name__}); it should be that of grids: leave "
                        f"`tokenizer` out of the recipe, or restore the file") from None
    if not isinstance(kept, dict) or kept.get("kind") != GRID_TOKENIZER or kept.get("vocab_size") != VOCABULARY:
        raise UserError(f"tokenizer: {path} is not that of grids; leave `tokenizer` out of the recipe")

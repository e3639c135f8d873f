"""The tokenizers of pairs: one for both languages or one a side; as saved, by name, or learned from the pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.reading.pair_sources import PairCorpus, pair_corpora
from dstrain.data.reading.pair_text import RawPair
from dstrain.data.reading.text import Text
from dstrain.data.tokenizers.bpe import learned_from
from dstrain.data.tokenizers.text_sample import sampled
from dstrain.data.tokenizers.tokenizer import LEARNED, Tokenizer, load_tokenizer

SIDES = ("source", "target")
"""and the names of their folders, where each has its own"""

Say = Callable[[str], None]


class PairTokenizer:
    def __init__(self, source: Tokenizer, target: Tokenizer):
        self.source, self.target = source, target
        self.shared = source is target
        """one vocabulary: the same ids mean the same in both languages"""
        self.name = source.name if self.shared else f"{source.name} (source), {target.name} (target)"

    def token_bytes(self) -> np.ndarray:
        """Of the target, whose tokens are scored."""
        return self.target.token_bytes()

    def decode(self, ids: Sequence[int]) -> str:
        """Of the target, too."""
        return self.target.decode(ids)

    def save(self, folder: Path) -> list[Path]:
        """The files written: in the folder itself, or in its folders source and target."""
        if self.shared:
            return self.source.save(folder)
        return [path for side in SIDES for path in getattr(self, side).save(Path(folder) / side)]


def pair_tokenizer(recipe: Recipe, folder: Path | None = None, say: Say = print) -> PairTokenizer:
    """`folder` is where this run has saved its tokenizers already; `say` hears of long work."""
    asked = recipe.tokenizer
    if isinstance(asked, str):
        both = _opened(recipe, asked, folder, None, say)
        return PairTokenizer(both, both)
    return PairTokenizer(*(_opened(recipe, getattr(asked, side), folder and Path(folder) / side, side, say)
                           for side in SIDES))


def _opened(recipe: Recipe, name: str, folder: Path | None, side: str | None, say: Say) -> Tokenizer:
    try:
        if folder is not None or not name.startswith(LEARNED):
            return load_tokenizer(name, folder)
        corpora = (_OneText(corpus, side) for corpus in pair_corpora(recipe.data, "train"))
        weights = [source.weight for source in recipe.data.train]
        what = "data.train" if side is None else f"the {side} side of data.train"
        return learned_from(name, sampled(corpora, weights, say), say, what)
    except UserError as error:
        raise error if side is None else UserError(_of_side(str(error), side)) from error


def _of_side(said: str, side: str) -> str:
    """With the key that this side has in the recipe."""
    return f"tokenizer.{side}{said.removeprefix('tokenizer')}" if said.startswith("tokenizer:") else said


class _OneText:
    """A source of pairs as one of texts: a side of each pair, or, for None, both in two lines."""

    def __init__(self, corpus: PairCorpus, side: str | None):
        self._corpus, self._side = corpus, side
        self.number, self.place, self.name = corpus.number, corpus.place, corpus.name
        self.file_count, self.fingerprint = corpus.file_count, corpus.fingerprint

    def documents(self, file_number: int) -> Iterator[tuple[int, RawPair]]:
        with closing(self._corpus.documents(file_number)) as documents:
            yield from documents

    def text_of(self, raw: RawPair) -> Text:
        pair = self._corpus.text_of(raw)
        if pair is None:
            return Text("")
        return Text(f"{pair.source}\n{pair.target}" if self._side is None else getattr(pair, self._side))


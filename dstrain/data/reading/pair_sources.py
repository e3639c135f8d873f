"""From a recipe's source of pairs to its files, shards or rule, and from one of them to its pairs, streamed.

A pair has a file number (in the sorted list of files, or among a hub dataset's shards) and its line or row there as its
number. Text is UTF-8; a byte order mark at a file's start is dropped; \\n and \\r\\n end a line, and nothing else
does. A pair with nothing on both sides is passed over; with nothing on one it is malformed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from dstrain.config.schema import Recipe, Source
from dstrain.config.source_files import kind_of
from dstrain.config.translate import PairData, PairSource
from dstrain.data.pairs.numbers import SpelledNumbers
from dstrain.data.reading.hub_shards import HubShards
from dstrain.data.reading.pair_columns import PairColumns
from dstrain.data.reading.pair_files import PairFiles
from dstrain.data.reading.pair_text import PairText, RawPair, pair_of
from dstrain.data.reading.sources import Corpus


def pair_corpora(recipe: Recipe, split: str) -> list[PairCorpus]:
    """The sources of a split. Errors come at once: no such file, no such language."""
    return corpora_of_pairs(recipe.data, split)


def corpora_of_pairs(data: PairData, split: str) -> list[PairCorpus]:
    return [PairCorpus(source, number, split, data.languages) for number, source in enumerate(getattr(data, split))]


def pairs_bytes(recipe: Recipe) -> int | None:
    """Bytes of the targets of all training data, unpacked; None where nobody knows without reading them."""
    sizes = [corpus.target_bytes() for corpus in pair_corpora(recipe, "train")]
    return None if None in sizes else sum(sizes)


def open_corpus(source: Source | PairSource, number: int, split: str,
                languages: tuple[str, str] | None = None) -> Corpus | PairCorpus:
    """A source of either family; of pairs with its languages."""
    return Corpus(source, number, split) if languages is None else PairCorpus(source, number, split, languages)


class PairCorpus:
    """One source of pairs: its files, listed at once, and their pairs, read when they are asked for."""

    shortens_skips = ""

    def __init__(self, source: PairSource, number: int, split: str, languages: tuple[str, str]):
        self.number = number
        self.place = f"data.{split}.{number}"
        paths = source.source_path and f"{source.source_path}, {source.target_path}"
        self.name = f"{self.place} ({paths or source.path or source.hub or source.embedded})"
        self._languages = languages
        columns = source.path is not None and kind_of(Path(source.path)) == ".tsv"
        self.what_to_correct = f"{self.place}.columns" if columns else "data.languages"
        if source.hub is not None:
            self._shelf = HubShards(source, self.place, PairColumns(languages))
        elif source.embedded is not None:
            self._shelf = SpelledNumbers(source.part, languages)
        else:
            self._shelf = PairFiles(source, self.place, languages)

    @property
    def file_count(self) -> int:
        return self._shelf.file_count

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """What a place in this source is good for: the number of files, and a digest of what they are."""
        return {"count": self.file_count, "digest": self._shelf.digest()}

    def documents(self, file_number: int, first: int = 0) -> Iterator[tuple[int, RawPair]]:
        """(number, what `text_of` makes text of). Pairs below `first` are left out where that is cheap."""
        return self._shelf.numbered(file_number, first)

    def text_of(self, raw: RawPair) -> PairText | None:
        """The pair, or None where both sides are blank; raises `Malformed` when there is none."""
        return pair_of(raw, self._languages)

    def target_bytes(self) -> int | None:
        """How much text the targets have, as far as that is known without reading it."""
        return None if isinstance(self._shelf, HubShards) else self._shelf.target_bytes()

    def where(self, file_number: int, number: int) -> str:
        """A pair's place for a person."""
        return self._shelf.where(file_number, number)

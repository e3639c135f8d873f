"""From a recipe's source of pairs to its files, shards or rule, and from one of them to its pairs, streamed.

A pair has a file number (in the sorted list of files, or among a hub dataset's shards) and its line or row there as its
number. Text is UTF-8; a byte order mark at a file's start is dropped; \\n and \\r\\n end a line, and nothing else
does. A pair with nothing on both sides is passed over; with nothing on one it is malformed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dstrain.config.schema import Recipe, Source
from dstrain.config.source_files import kind_of
from dstrain.config.translate import PairData, PairSource
from dstrain.data.reading.hub_shards import HubShards
from dstrain.data.reading.pair_columns import PairColumns
from dstrain.data.reading.pair_files import PairFiles
from dstrain.data.reading.pair_text import PairText, RawPair, pair_of
from dstrain.data.reading.sources import Corpus, OnShelf
from dstrain.data.reading.spelled_numbers import SpelledNumbers


def pair_corpora(data: PairData, split: str) -> list[PairCorpus]:
    """The sources of a split. Errors come at once: no such file, no such language."""
    return [PairCorpus(source, number, split, data.languages) for number, source in enumerate(getattr(data, split))]


def pairs_bytes(recipe: Recipe) -> int | None:
    """Bytes of the targets of all training data, unpacked; None where nobody knows without reading them."""
    sizes = [corpus.target_bytes() for corpus in pair_corpora(recipe.data, "train")]
    return None if None in sizes else sum(sizes)


def open_corpus(source: Source | PairSource, number: int, split: str,
                languages: tuple[str, str] | None = None) -> Corpus | PairCorpus:
    """A source of either family; of pairs with its languages."""
    return Corpus(source, number, split) if languages is None else PairCorpus(source, number, split, languages)


class PairCorpus(OnShelf):
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

    def documents(self, file_number: int, first: int = 0) -> Iterator[tuple[int, RawPair]]:
        """(number, what `text_of` makes text of). Pairs below `first` are left out where that is cheap."""
        return self._shelf.numbered(file_number, first)

    def text_of(self, raw: RawPair) -> PairText | None:
        """The pair, or None where both sides are blank; raises `Malformed` when there is none."""
        return pair_of(raw, self._languages)

    def target_bytes(self) -> int | None:
        """How much text the targets have, as far as that is known without reading it."""
        return None if isinstance(self._shelf, HubShards) else self._shelf.target_bytes()

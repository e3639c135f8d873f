"""A folder of token shards: what it was made from, whether that is what a recipe asks for, and its documents.

PREPARED/prepared.json                what was tokenized, with what: written first
PREPARED/tokenizer/                   enough to load it
PREPARED/data.train.0/000000.shard    and so on; a source is finished when a shard says that it is the last
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.config.prepared_form import description_of_folder
from dstrain.config.schema import Recipe, Source
from dstrain.data.preparing.same import check_source, digest_of
from dstrain.data.preparing.shards import DamagedShard, Kept, Shard
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.tokenizer import Tokenizer

TOKENIZER = "tokenizer"


def corpora_of(recipe: Recipe, split: str, tokenizer: Tokenizer) -> list[Corpus | PreparedCorpus]:
    """The sources of a split, to be tokenized with this tokenizer, or made with it already."""
    if recipe.data.prepared is not None:
        PreparedFolder(recipe.data.prepared).check_tokenizer(tokenizer)
    return sources_of(recipe, split)


def sources_of(recipe: Recipe, split: str) -> list[Corpus | PreparedCorpus]:
    """As text or, where the recipe names a prepared folder, as what that holds of them. Errors come at once: no such
    file, other text than what was prepared."""
    sources = getattr(recipe.data, split)
    if recipe.data.prepared is None:
        return [Corpus(source, number, split) for number, source in enumerate(sources)]
    folder = PreparedFolder(recipe.data.prepared)
    return [folder.corpus(source, number, split) for number, source in enumerate(sources)]


def as_prepared(recipe: Recipe, folder: PreparedFolder | None = None) -> Recipe:
    """With the commit that each hub source had when it was prepared: no network is asked what its name means now."""
    kept = (folder or PreparedFolder(recipe.data.prepared)).sources

    def of(split: str) -> tuple[Source, ...]:
        return tuple(source if source.hub is None or f"data.{split}.{number}" not in kept else
                     replace(source, revision=kept[f"data.{split}.{number}"]["commit"])
                     for number, source in enumerate(getattr(recipe.data, split)))

    return replace(recipe, data=replace(recipe.data, train=of("train"), valid=of("valid")))


class PreparedFolder:
    """What stands in prepared.json."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        description = description_of_folder(self.path)
        self.sources, self.tokenizer = description["sources"], description["tokenizer"]

    def corpus(self, source: Source, number: int, split: str) -> PreparedCorpus:
        place = f"data.{split}.{number}"
        if place not in self.sources:
            raise UserError(f"{place}: {self.path} was prepared without it (it holds {', '.join(self.sources)}); run "
                            f"dstrain prepare RECIPE --out {self.path} again, which adds it")
        check_source(str(self.path), json.dumps(self.sources[place]), source, number, split)
        return PreparedCorpus(self, place, number)

    def corpora(self) -> list[PreparedCorpus]:
        return [PreparedCorpus(self, place, int(place.rsplit(".", 1)[1])) for place in self.sources]

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        kept = self.tokenizer
        if kept["digest"] != digest_of(tokenizer):
            other = f"{tokenizer.name!r}" if tokenizer.name != kept["name"] else f"another {tokenizer.name!r}"
            raise UserError(f"tokenizer: the recipe's is {other}, but {self.path} was prepared with {kept['name']!r}; "
                            f"set tokenizer={kept['asked']}, or prepare the sources for this one into another folder "
                            f"(dstrain prepare RECIPE --out FOLDER)")


class PreparedCorpus:
    """One source as its shards hold it: the same documents, numbers and words, and the fingerprint of its text."""

    shortens_skips = ""

    def __init__(self, folder: PreparedFolder, place: str, number: int):
        kept = folder.sources[place]
        self.number, self.place, self.fingerprint = number, place, kept["fingerprint"]
        source = kept["source"]
        self.name = f"{place} ({source['path'] or source['hub'] or source['embedded']}, prepared in {folder.path})"
        self.what_to_correct = f"{place}.text_field"
        self.file_count: int = kept["file_count"]
        self._folder = folder.path / place

    def documents(self, file_number: int, first: int = 0) -> Iterator[tuple[int, Kept]]:
        """(document number, the document), from document `first` on, without reading those before."""
        begin = max(0, bisect_right(self._firsts, (file_number, first)) - 1)
        for shard in self.shards[begin:]:
            if shard.first[0] > file_number:
                return
            yield from shard.documents_of(file_number, first)

    def where(self, file_number: int, document: int) -> str:
        """As the text's corpus says it, for a document that is malformed."""
        begin = max(0, bisect_right(self._firsts, (file_number, document)) - 1)
        shard = self.shards[begin]
        row = shard.row_of(file_number, document)
        if row in shard.malformed:
            return shard.malformed[row][0]
        return f"{shard.path}, file {file_number}, document {document}"

    def text_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(shard.sums["text_bytes"] for shard in self.shards)

    @cached_property
    def shards(self) -> list[Shard]:
        """All, each looked at: whole by its description and size."""
        shards: list[Shard] = []
        while not shards or not shards[-1].last:
            path = shard_path(self._folder, len(shards))
            try:
                shards.append(Shard.opened(path).continuing(shards[-1].next if shards else (0, 0)))
            except FileNotFoundError:
                raise UserError(f"{self.name}: is not prepared to its end ({path} is missing); run the same dstrain "
                                f"prepare again, which goes on from there") from None
            except DamagedShard as damage:
                raise UserError(f"{path}: is damaged: {damage}; run the same dstrain prepare again, which writes it "
                                f"anew") from None
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        return shards

    @cached_property
    def _firsts(self) -> list[tuple[int, int]]:
        return [shard.first for shard in self.shards]


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.shard"

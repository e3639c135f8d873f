"""What data.py lets take turns: every way from a file to tokens, each returning how many tokens (or bytes) it made.

Nothing of one turn is left for the next, except what the operating system keeps of the files in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe
from dstrain.data.feed import TrainFeed
from dstrain.data.preparing.prepare import prepare
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.tokenizer import load_tokenizer

COPIED_BYTES = 2**28
BLOCK_TOKENS = 4096
"""of a lane, in turns: small, so that filling the lanes at the start does not hide the rate of a run of hours"""
PART_OF = 8
"""ranks: one of them reads the whole file for its own lanes' documents"""


class Ways:
    """All ways over one file; the folder is for what is prepared."""

    def __init__(self, path: Path, starts: str | None, tokenizer: str, tokens: int, rows: int, length: int,
                 folder: Path):
        self.path, self.folder = path, folder
        source = f"{{path: {path}" + (f", starts: '{starts}'" if starts and ".txt" in path.name else "") + "}"
        self.recipe = load_recipe("quickstart", [
            f"tokenizer={tokenizer}", f"data.train=[{source}]", "data.valid=[]", f"data.lanes={rows}",
            f"batch={{rows: {rows}, micro_rows: {rows}, length: {length}}}"])
        self.tokenizer = load_tokenizer(tokenizer)
        self.texts = self._texts()
        self.steps = -(-tokens // (rows * length))
        self.prepared = folder / "prepared"
        prepare(self.recipe, self.prepared, _Silent())

    def contenders(self, workers: list[int]) -> dict[str, Callable[[], int]]:
        """By name; those in UNITS do not count tokens."""
        ways: dict[str, Callable[[], int]] = {"tiktoken, one thread, text in memory": self.tokenize}
        for count in workers:
            ways[f"streaming, {_threads(count)}"] = lambda recipe=self._with(workers=count): self.feed(recipe)
        ways[f"streaming, one rank of {PART_OF}, {_threads(workers[-1])}"] = lambda: self.feed(
            self._with(workers=workers[-1]), world=PART_OF)
        for count in workers:
            ways[f"preparing, {_threads(count)}"] = lambda recipe=self._with(workers=count): self.prepare(recipe)
        ways["loading what was prepared"] = lambda: self.feed(self._with(prepared=str(self.prepared)))
        return ways | {"reading text, no tokens": self.read, "memory copy": _copy, "reading the file itself": self.load}

    def starts(self) -> dict[str, Callable[[], Any]]:
        """To the first step, with blocks of the ordinary size: anew, and behind the last step of a turn."""
        ordinary = self.recipe.data.block_tokens
        streamed, prepared = (self._with(ordinary, prepared=folder) for folder in (None, str(self.prepared)))
        place = self._place_after_turn(prepared)
        return {"streaming, from the start": lambda: self.first_step(streamed, None),
                "streaming, going on": lambda: self.first_step(streamed, place),
                "prepared, from the start": lambda: self.first_step(prepared, None),
                "prepared, going on": lambda: self.first_step(prepared, place)}

    def tokenize(self) -> int:
        """Documents one after the other by tiktoken alone, into numpy arrays as dstrain needs them."""
        return sum(len(self.tokenizer.encode(text)) for text in self.texts)

    def feed(self, recipe: Recipe, world: int = 1) -> int:
        """So many steps from the start: batches as the training gets them."""
        with closing(TrainFeed(recipe, self.tokenizer, 0, world, warn=_say_nothing)) as feed:
            return sum(next(feed).stats["scored"] for _ in range(self.steps))

    def prepare(self, recipe: Recipe) -> int:
        """The whole file into shards, in a fresh folder."""
        folder = self.folder / "again"
        try:
            made = prepare(recipe, folder, _Silent())
            return sum(shard.tokens for corpus in made.corpora() for shard in corpus.shards)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def first_step(self, recipe: Recipe, place: dict | None) -> None:
        with closing(TrainFeed(recipe, self.tokenizer, 0, 1, place, warn=_say_nothing)) as feed:
            next(feed)

    def read(self) -> int:
        """UTF-8 bytes of text: unpacked, split into documents and parsed."""
        return sum(len(text.encode()) for text in self._texts())

    def load(self) -> int:
        """Bytes of the file as it lies on the disk; the system is asked to forget it first."""
        with open(self.path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            count = 0
            while chunk := file.read(2**22):
                count += len(chunk)
            return count

    def _texts(self) -> list[str]:
        corpus = Corpus(self.recipe.data.train[0], 0, "train")
        return [corpus.text_of(raw).text for file in range(corpus.file_count) for _, raw in corpus.documents(file)]

    def _with(self, block_tokens: int = BLOCK_TOKENS, **data: Any) -> Recipe:
        return replace(self.recipe, data=replace(self.recipe.data, block_tokens=block_tokens, **data))

    def _place_after_turn(self, recipe: Recipe) -> dict:
        with closing(TrainFeed(recipe, self.tokenizer, 0, 1, warn=_say_nothing)) as feed:
            for _ in range(self.steps):
                place = next(feed).place
            return place


UNITS = {"reading text, no tokens": "bytes of text", "memory copy": "bytes", "reading the file itself": "bytes"}
"""of what does not make tokens"""
_COPIED = [np.ones(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)]


def _copy() -> int:
    np.copyto(_COPIED[1], _COPIED[0])
    return COPIED_BYTES


def _threads(count: int) -> str:
    return f"{count} worker{'s' * (count > 1)}"


def _say_nothing(*_: Any) -> None:
    """Malformed lines and skips are not what is measured."""


class _Silent:
    """Looks on while shards are written, and says nothing."""

    def say(self, line: str) -> None: ...

    def begin(self, name: str, total_bytes: int | None) -> None: ...

    def checked(self, shard: Any) -> None: ...

    def advance(self, read_bytes: int, tokens: int, documents: int) -> None: ...

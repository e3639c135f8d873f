"""Text to token shards, once: in constant memory, to be stopped at any instant and gone on with after the last shard.

The documents of a source are cut into shards by count alone, so what stands in them does not depend on interruptions
or on the number of workers: every way leads to the same bytes.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.preparing.describe import alone_in, describe
from dstrain.data.reading.malformed import FEWEST, MalformedLines, most_of_lane
from dstrain.data.parsed import Content, Parsed, parsed, size_of
from dstrain.data.preparing.prepared import PreparedFolder, shard_path
from dstrain.data.scan import nothing_in
from dstrain.data.preparing.shard_writer import ShardWriter
from dstrain.data.preparing.shards import DamagedShard, Shard
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.tokenizer import Tokenizer
from dstrain.data.workers import Workers, in_order

SHARD_TOKENS = 2**26
"""a minute's work or less, and 128 MiB of uint16"""
SHARD_DOCUMENTS, SHARD_MALFORMED = 2**20, 2**14  # what a shard's index may hold in memory until it is written


class Watch(Protocol):
    """Who looks on."""

    def say(self, line: str) -> None: ...

    def begin(self, name: str, total_bytes: int | None) -> None: ...

    def checked(self, shard: Shard) -> None: ...

    def advance(self, read_bytes: int, tokens: int, documents: int) -> None: ...


@dataclass(frozen=True)
class _Item:
    file: int
    document: int
    content: Content


def prepare(recipe: Recipe, folder: Path, watch: Watch, shard_tokens: int = SHARD_TOKENS) -> PreparedFolder:
    """Writes what is missing, and checks what is there."""
    recipe = replace(recipe, data=replace(recipe.data, prepared=None))
    with alone_in(folder):
        tokenizer, corpora = describe(recipe, folder, watch.say)
        workers = Workers(recipe.data.workers)
        try:
            for corpus in corpora:
                _Source(corpus, tokenizer, folder / corpus.place, recipe, workers, watch, shard_tokens).prepare()
        finally:
            workers.close()
    return PreparedFolder(folder)


class _Source:
    """One source's shards."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, folder: Path, recipe: Recipe, workers: Workers,
                 watch: Watch, shard_tokens: int):
        self._corpus, self._folder, self._recipe, self._watch = corpus, folder, recipe, watch
        self._parse, self._workers = partial(parsed, corpus, tokenizer), workers
        self._bytes_of_token = tokenizer.token_bytes()
        self._dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
        self._shard_tokens = shard_tokens
        self._lines = self._bad = self._read_bytes = self._shard_bytes = 0
        self._named = MalformedLines(corpus, 1.0, 1, watch.say)  # for the names alone: it would never refuse

    def prepare(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._total_bytes = self._corpus.text_bytes()
        self._watch.begin(self._corpus.name, self._total_bytes)
        number, at, last, documents = 0, (0, 0), False, None
        try:
            while not last:
                path = shard_path(self._folder, number)
                shard = self._whole(path, at)
                if shard is not None:
                    documents = None
                else:
                    documents = documents or self._documents(at)
                    shard = self._write(path, at, documents)
                self._count(shard)
                number, at, last = number + 1, shard.next, shard.last
        finally:
            if documents is not None:
                documents.close()
        if not self._lines:
            raise UserError(nothing_in(self._corpus))

    def _whole(self, path: Path, first: tuple[int, int]) -> Shard | None:
        """The shard, if it is there, whole, and continues the one before it."""
        try:
            shard = Shard.opened(path).continuing(first)
            shard.check()
        except FileNotFoundError:
            return None
        except DamagedShard as damage:
            self._watch.say(f"{path}: is damaged ({damage}): written anew")
            return None
        self._watch.checked(shard)
        return shard

    def _documents(self, start: tuple[int, int]) -> Iterator[tuple[_Item, Parsed]]:
        """From the place `start` on, with what each was parsed to."""
        def items() -> Iterator[_Item]:
            for file in range(start[0], self._corpus.file_count):
                first = start[1] if file == start[0] else 0
                for number, content in self._corpus.documents(file, first):
                    if number >= first:
                        yield _Item(file, number, content)

        return in_order(items(), self._parse, self._workers)

    def _write(self, path: Path, first: tuple[int, int], documents: Iterator[tuple[_Item, Parsed]]) -> Shard:
        """The next shard: up to the document that fills it, or the source's end."""
        writer = ShardWriter(path, self._dtype, first)
        try:
            with self._room(writer):
                for item, found in documents:
                    self._add(writer, item, found)
                    if self._is_full(writer):
                        return writer.commit((item.file, item.document + 1), last=False)
                return writer.commit((self._corpus.file_count, 0), last=True)
        finally:
            writer.abandon()

    def _add(self, writer: ShardWriter, item: _Item, found: Parsed) -> None:
        size = size_of(item.content)
        self._named.see(0)
        if found.malformed is None:
            text_bytes = int(self._bytes_of_token[found.targets].sum())
            writer.add(item.file, item.document, found.targets, found.words, text_bytes, size)
        else:
            where = self._corpus.where(item.file, item.document)
            writer.add_malformed(item.file, item.document, where, found.malformed, size)
            self._named.skip(0, item.file, item.document, found.malformed)
        self._watch.advance(size, len(found.targets), 1)

    def _is_full(self, writer: ShardWriter) -> bool:
        return (writer.tokens >= self._shard_tokens or writer.rows >= SHARD_DOCUMENTS
                or len(writer.malformed) >= SHARD_MALFORMED)

    def _count(self, shard: Shard) -> None:
        """Refuses where so much is malformed that every training would, however it falls to the lanes."""
        self._lines, self._bad = self._lines + shard.rows, self._bad + len(shard.malformed)
        self._read_bytes += shard.sums["read_bytes"]
        self._shard_bytes += shard.path.stat().st_size
        data = self._recipe.data
        lines_a_lane = (self._lines if shard.last else max(self._lines, FEWEST)) / data.lanes
        if self._bad <= data.lanes * most_of_lane(lines_a_lane, data.bad_share, data.lanes):
            return
        where, reason = shard.malformed[max(shard.malformed)] if shard.malformed else ("an earlier one", "malformed")
        raise UserError(f"{self._corpus.name}: {self._bad} of {self._lines} lines read are malformed, more than "
                        f"data.bad_share {data.bad_share:g} allows; the last is {where}: {reason}. Correct the lines "
                        f"or {self._corpus.place}.text_field, or raise data.bad_share")

    @contextmanager
    def _room(self, writer: ShardWriter) -> Iterator[None]:
        """A full disk, as what is missing."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(f"{self._folder}: {error.strerror}: {_size(shutil.disk_usage(self._folder).free)} are "
                            f"free, and {self._missing(writer)}; make room and give the same command again, which goes "
                            f"on after the last whole shard, or choose another disk with --out") from error

    def _missing(self, writer: ShardWriter) -> str:
        """How much the rest of this source takes, as far as that can be known."""
        read, written = self._read_bytes + writer.read_bytes, self._shard_bytes + writer.bytes
        if self._total_bytes is None or not read:
            return f"a shard alone takes up to {_size(self._shard_tokens * np.dtype(self._dtype).itemsize)}"
        rest = max(0, self._total_bytes - self._read_bytes) * written / read
        return f"about {_size(rest)} are needed for the rest of {self._corpus.place}"


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"

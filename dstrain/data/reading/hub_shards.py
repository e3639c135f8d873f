"""The shards of a hub dataset, streamed by `datasets` at one commit: the hub's, its cache's, or a local folder's."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import zstandard

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.config.source_files import kind_of
from dstrain.config.source_rules import ENDINGS
from dstrain.config.translate import PairSource
from dstrain.data.reading.columns import TextColumn
from dstrain.data.reading.files import fingerprint_of, sound
from dstrain.data.reading.hub import asking, cached_folder, commit_of, is_folder, is_offline, one_line, unreachable
from dstrain.data.reading.pair_columns import PairColumns
from dstrain.data.reading.pair_text import RawPair
from dstrain.data.reading.text import Raw
from dstrain.data.reading.unpacked import text_bytes_in

_ROWS_AT_ONCE = 256
# What `datasets` and the libraries below it raise where contents are not what they should be.
_UNFIT = (ValueError, KeyError, TypeError, RuntimeError, EOFError, OSError, zlib.error, zstandard.ZstdError,
          pa.ArrowException)


class HubShards:
    """A file is a shard of the streamed dataset, a document's number its row in the shard."""

    def __init__(self, source: Source | PairSource, place: str, wanted: TextColumn | PairColumns):
        self._source, self._place, self._wanted = source, place, wanted
        self._commit = None if is_folder(source.hub) else commit_of(source.hub, source.revision, place)
        self._opened = _open(source.hub, source.config, source.split, self._commit, wanted, place)
        self.file_count = self._opened.dataset.num_shards

    def digest(self) -> str:
        """Of a commit, its name: what it holds never changes. Of a folder's files, their contents."""
        what = [self._source.hub, self._opened.config, self._source.split, self._commit, self.file_count]
        if self._commit is None:
            what = [self._source.split, fingerprint_of([Path(name) for name in self._opened.files])]
        return hashlib.blake2b(json.dumps(what).encode(), digest_size=8).hexdigest()

    def has_rows(self, file_number: int) -> bool:
        return True

    def numbered(self, file_number: int, first: int) -> Iterator[tuple[int, Raw | RawPair]]:
        shard = self._opened.dataset.shard(num_shards=self.file_count, index=file_number)
        number = first
        with _reading(self, file_number), asking(self._source.hub, self._commit, self._place):
            for table in shard.skip(first).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
                yield from enumerate(self._wanted.documents_in(table), start=number)
                number += len(table)

    def text_bytes(self) -> int | None:
        """Of a column with text: what the dataset's card says, all columns counted; else what files here tell."""
        if self._opened.stated_bytes:
            return self._opened.stated_bytes
        paths = [Path(name) for name in self._opened.files]
        if not all(os.path.isfile(path) and kind_of(path) in ENDINGS for path in paths):
            return None
        sizes = []
        for path in paths:
            with sound(path):
                sizes.append(text_bytes_in(path, self._wanted.field))
        return None if None in sizes else sum(sizes)

    def where(self, file_number: int, number: int) -> str:
        return f"{self.name_of(file_number)}, row {number} (from 0)"

    def name_of(self, file_number: int) -> str:
        files = self._opened.files
        if len(files) == self.file_count:
            return files[file_number].removeprefix("hf://datasets/")
        return f"{self._source.hub}, split {self._source.split}, shard {file_number}"


class _Opened(NamedTuple):
    dataset: Any
    """a datasets.IterableDataset with the wanted columns alone"""
    config: str
    """name of the configuration, also where the recipe leaves it out because there is one only"""
    files: list[str]
    """paths, or hf:// addresses with the commit"""
    stated_bytes: int | None


@lru_cache(maxsize=64)
def _open(name: str, config: str | None, split: str, commit: str | None,
          wanted: TextColumn | PairColumns, place: str) -> _Opened:
    """Asks the hub a handful of questions, once per process and not once per validation; reads one file's schema."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars

    datasets.disable_progress_bars()  # they stand between the lines of a run
    disable_progress_bars()
    folder = os.path.expanduser(name) if commit is None else None
    if folder is None and is_offline():
        folder = cached_folder(name, commit, place)
    with _loading(name, config, place), asking(name, commit, place):
        builder = datasets.load_dataset_builder(folder or name, config, revision=None if folder else commit)
        if type(builder).__module__.startswith("datasets.packaged_modules.cache"):
            # What `datasets` falls back to: tables of whatever revision it loaded last.
            raise UserError(unreachable(name, place, "no answer about that commit"))
        splits = builder.as_streaming_dataset()
        if split not in splits:
            raise UserError(f"{place}.split: {name} has no split {split!r}; it has {', '.join(splits)}")
        columns = wanted.chosen(_schema(splits[split]), name, place)
        if hasattr(builder.config, "columns"):  # parquet: the other columns do not even travel
            builder.config.columns = columns
        if hasattr(builder.config, "batch_size"):  # parquet: else its first row group's size, which may be 0
            builder.config.batch_size = _ROWS_AT_ONCE
        dataset = builder.as_streaming_dataset(split=split).select_columns(columns)
    files = (builder.config.data_files or {}).get(split, [])
    stated = (builder.info.splits or {}).get(split)
    return _Opened(dataset, builder.config.name, [str(name) for name in files], stated and stated.num_bytes)


def _schema(dataset: Any) -> pa.Schema:
    if dataset.features is not None:
        return dataset.features.arrow_schema
    return next((table.schema for table in dataset.with_format("arrow").iter(batch_size=1)), pa.schema([]))


@contextmanager
def _loading(name: str, config: str | None, place: str) -> Iterator[None]:
    """What `datasets` does not find in the dataset, as the user's error; what it has is in its own words."""
    try:
        yield
    except (*_UNFIT, StopIteration) as error:  # StopIteration: the first file has no row
        said = one_line(error)
        if "BuilderConfig" in said or "Config name is missing" in said:
            said = said.partition("Example of usage")[0].strip().removeprefix("ValueError: ")
            raise UserError(f"{place}.config: {config!r} of {name}: {said}") from error
        if "scripts are no longer supported" in said:
            raise UserError(f"{place}.hub: {name} is made by a program of its own, which `datasets` no longer runs; "
                            f"the hub keeps most such datasets as parquet, too: set {place}.revision to "
                            f"refs/convert/parquet") from error
        remedy = ("put its files there, named by split (train.txt.gz, valid.parquet ...), or correct data.folder or "
                  "the name" if is_folder(name) else "look at its page, or download its files and name them as `path`")
        raise UserError(f"{place}.hub: {name} cannot be loaded by `datasets` ({said}); {remedy}") from error


@contextmanager
def _reading(shards: HubShards, file_number: int) -> Iterator[None]:
    try:
        yield
    except _UNFIT as error:
        raise UserError(f"{shards.name_of(file_number)}: cannot be read as rows ({one_line(error)}); download the file "
                        f"and name it as `path`, where single malformed lines of .jsonl are passed over") from error

"""Whether shards are of the text and the tokenizer that a recipe asks for: told by what was written down of them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from dstrain.config.errors import UserError
from dstrain.config.same_source import difference_in_words
from dstrain.config.hints import shown
from dstrain.config.schema import Source
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.tokenizer import Tokenizer

_OF_THE_TEXT = tuple(field.name for field in fields(Source) if field.name != "weight")


def description_of(source: Source, corpus: Corpus, commit: str | None) -> dict[str, Any]:
    """What prepared.json keeps of a source, and later ones are compared with. `source`: as the recipe has it."""
    text = {name: getattr(source, name) for name in _OF_THE_TEXT}
    description = {"source": text, "commit": commit, "file_count": corpus.file_count,
                   "fingerprint": corpus.fingerprint}
    return json.loads(json.dumps(description))


@lru_cache(maxsize=None)  # once a process: with many files it takes a while
def check_source(folder: str, kept_text: str, source: Source, number: int, split: str) -> None:
    kept, place = json.loads(kept_text), f"data.{split}.{number}"
    difference = difference_in_words(kept, source, place) or _difference_in_files(kept, source, number, split)
    if difference:
        raise UserError(f"{difference} when {folder} was prepared; restore that, or prepare another folder "
                        f"(dstrain prepare RECIPE --out FOLDER)")


def _difference_in_files(kept: dict[str, Any], source: Source, number: int, split: str) -> str | None:
    """Compares with the text where it is at hand: a compute node may lack it."""
    place, key = f"data.{split}.{number}", "hub" if source.path is None else "path"
    now, was = getattr(source, key), kept["source"][key]
    fingerprint = _fingerprint_here(source, number, split)
    if fingerprint is None:
        return None if now == was else (f"{place}.{key} is {shown(now)}, which is not here to be compared, "
                                        f"but was {shown(was)}")
    if fingerprint == kept["fingerprint"]:
        return None
    return f"{place} ({now}): the files are others than they were" if now == was else (
        f"{place}.{key} is {shown(now)}, which holds something else, but was {shown(was)}")


def _fingerprint_here(source: Source, number: int, split: str) -> dict[str, Any] | None:
    """None where the text is not here. An embedded corpus is here always, but as this machine's Python has it."""
    if source.embedded is not None or source.hub is not None and not os.path.isdir(source.hub):
        return None
    try:
        return json.loads(json.dumps(Corpus(source, number, split).fingerprint))
    except UserError:  # no such file, or not readable
        return None


_DIGESTS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def digest_of(tokenizer: Tokenizer) -> str:
    """Of all that the tokenizer saves: equal only where it makes the same tokens."""
    if tokenizer not in _DIGESTS:
        with tempfile.TemporaryDirectory() as folder:
            digest = hashlib.sha256()
            for path in sorted(tokenizer.save(Path(folder))):
                digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        _DIGESTS[tokenizer] = digest.hexdigest()
    return _DIGESTS[tokenizer]

"""What is to be prepared, written down before the work: compared with what the folder was begun with, if it was."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.prepared_form import DESCRIPTION, FORM
from dstrain.config.same_source import difference_in_words
from dstrain.config.schema import Recipe, Source
from dstrain.data.reading.hub import pinned
from dstrain.data.preparing.prepared import TOKENIZER, PreparedFolder, as_prepared
from dstrain.data.tokenizers.run_tokenizer import LEARNED, run_tokenizer
from dstrain.data.preparing.same import description_of, digest_of
from dstrain.data.preparing.shard_writer import UNFINISHED, publish
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.tokenizer import Tokenizer

_LOCK = ".lock"


def describe(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> tuple[Tokenizer, list[Corpus]]:
    """Tokenizer and sources, after prepared.json and the saved tokenizer say what they are."""
    begun = PreparedFolder(folder) if (folder / DESCRIPTION).exists() else None
    kept = {} if begun is None else begun.sources
    for place, _, _, source in _numbered(recipe):
        if place in kept and (difference := difference_in_words(kept[place], source, place)):
            raise _other(difference, folder)
    tokenizer = _tokenizer(recipe, folder, begun, say)
    pinned_recipe = pinned(recipe if begun is None else as_prepared(recipe, begun), None)
    corpora, sources = [], dict(kept)
    for (place, split, number, source), (*_, found) in zip(_numbered(recipe), _numbered(pinned_recipe)):
        corpora.append(Corpus(found, number, split))
        sources[place] = description_of(source, corpora[-1], found.revision)
        if place in kept and kept[place]["fingerprint"] != sources[place]["fingerprint"]:
            raise _other(f"{corpora[-1].name}: the files are others than they were", folder)
    about_tokenizer = {"asked": recipe.tokenizer, "name": tokenizer.name, "digest": digest_of(tokenizer)}
    _write(folder, {"form": FORM, "tokenizer": about_tokenizer, "sources": sources})
    return tokenizer, corpora


def _tokenizer(recipe: Recipe, folder: Path, begun: PreparedFolder | None, say: Callable[[str], None]) -> Tokenizer:
    """As the folder has it, if it has one."""
    if begun is None:
        tokenizer = run_tokenizer(recipe, None, say)
        for path in tokenizer.save(folder / TOKENIZER):
            _to_disk(path)
        return tokenizer
    asked = begun.tokenizer["asked"]
    if asked != recipe.tokenizer and recipe.tokenizer.startswith(LEARNED):  # not to be learned for nothing
        raise _other(f"tokenizer is {shown(recipe.tokenizer)}, but was {shown(asked)}", folder)
    tokenizer = run_tokenizer(recipe, folder / TOKENIZER if asked == recipe.tokenizer else None, say)
    begun.check_tokenizer(tokenizer)
    return tokenizer


def _numbered(recipe: Recipe) -> Iterator[tuple[str, str, int, Source]]:
    for split in ("train", "valid"):
        for number, source in enumerate(getattr(recipe.data, split)):
            yield f"data.{split}.{number}", split, number, source


def _other(difference: str, folder: Path) -> UserError:
    return UserError(f"{difference} when {folder} was begun; restore that, choose another folder with --out, or remove "
                     f"{folder} to prepare it anew")


def _write(folder: Path, description: dict[str, Any]) -> None:
    unfinished = folder / (DESCRIPTION + UNFINISHED)
    unfinished.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    _to_disk(unfinished)
    publish(unfinished, folder / DESCRIPTION)


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps every other prepare out of the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / _LOCK, "a+")
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; choose another place with --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise UserError(f"{folder} is being prepared by {lock.read().strip() or 'another process'}: wait for it, "
                            f"stop it, or choose another folder with --out") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield

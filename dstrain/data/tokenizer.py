"""Tokenizers: tiktoken's encodings and plain bytes. A saved folder is enough to load one again, with no network."""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dstrain.config.errors import UserError

END_OF_TEXT = "<|endoftext|>"
DESCRIPTION_FILE, RANKS_FILE = "tokenizer.json", "tokenizer.tiktoken"
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10.0, 30.0


class Tokenizer(Protocol):
    """Text to ids and back. Text that spells a special token is ordinary text."""

    name: str
    vocab_size: int
    eot: int
    """id of end-of-text: before a document's first token and after its last"""

    def encode(self, text: str) -> np.ndarray: ...  # int32

    def decode(self, ids: Sequence[int] | np.ndarray) -> str: ...

    def token_bytes(self) -> np.ndarray: ...  # [vocab_size]: UTF-8 bytes that each id stands for; specials: 0

    def save(self, folder: Path) -> list[Path]: ...  # the files written


def load_tokenizer(name: str, folder: Path | None = None) -> Tokenizer:
    """The tokenizer called `name`; from `folder`, if given, what `save` has written there."""
    if folder is not None:
        return _load_saved(name, Path(folder))
    return ByteTokenizer() if name == "bytes" else TiktokenTokenizer(_tiktoken_encoding(name))


class ByteTokenizer:
    """UTF-8 bytes as ids 0..255, and end-of-text."""

    name, vocab_size, eot = "bytes", 257, 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_whole_characters(text).encode("utf-8"), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return _decode(ids, self._bytes)

    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], dtype=np.int64)

    def save(self, folder: Path) -> list[Path]:
        return [_write_description(folder, {"name": self.name, "kind": "bytes"})]

    _bytes = [bytes([value]) for value in range(256)] + [END_OF_TEXT.encode()]


class TiktokenTokenizer:
    """One of tiktoken's byte-pair encodings."""

    def __init__(self, encoding: Any):
        self.name, self.vocab_size = encoding.name, encoding.n_vocab
        self._encoding = encoding
        if END_OF_TEXT not in encoding._special_tokens:
            raise UserError(f"tokenizer {self.name}: has no {END_OF_TEXT}, which separates documents; use gpt2, "
                            f"cl100k_base or o200k_base")
        self.eot = encoding._special_tokens[END_OF_TEXT]

    def encode(self, text: str) -> np.ndarray:
        return self._encoding.encode_to_numpy(_whole_characters(text), disallowed_special=()).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return _decode(ids, self._bytes)

    def token_bytes(self) -> np.ndarray:
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, rank in self._encoding._mergeable_ranks.items():
            lengths[rank] = len(token)
        return lengths

    def save(self, folder: Path) -> list[Path]:
        description = {"name": self.name, "kind": "tiktoken", "vocab_size": self.vocab_size,
                       "pattern": self._encoding._pat_str, "specials": self._encoding._special_tokens}
        files = [_write_description(folder, description), Path(folder) / RANKS_FILE]
        ranks = sorted(self._encoding._mergeable_ranks.items(), key=lambda item: item[1])
        files[1].write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks))
        return files

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = ["\N{REPLACEMENT CHARACTER}".encode()] * self.vocab_size  # some encodings have ids for nothing
        for token, rank in self._encoding._mergeable_ranks.items():
            table[rank] = token
        for text, rank in self._encoding._special_tokens.items():
            table[rank] = text.encode()
        return table


def _decode(ids: Sequence[int] | np.ndarray, table: list[bytes]) -> str:
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(table):
        raise ValueError(f"ids from {ids.min()} to {ids.max()}, but the vocabulary has {len(table)}")
    return b"".join(table[number] for number in ids.tolist()).decode("utf-8", errors="replace")


def _whole_characters(text: str) -> str:
    """Halves of surrogate pairs cannot be written as UTF-8: whole pairs are joined, lone halves replaced."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---- saved folders ----


def _write_description(folder: Path, description: dict[str, Any]) -> Path:
    path = Path(folder) / DESCRIPTION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(description, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    return path


def _load_saved(name: str, folder: Path) -> Tokenizer:
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        saved, kind = description["name"], description["kind"]
        if saved != name:
            raise UserError(f"{folder / DESCRIPTION_FILE}: holds the tokenizer {saved!r}, but {name!r} is asked for; "
                            f"set tokenizer={saved}")
        if kind == "bytes":
            return ByteTokenizer()
        lines = (folder / RANKS_FILE).read_bytes().splitlines()
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in (line.split() for line in lines)}
        return TiktokenTokenizer(_encoding_from(description, ranks))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: holds no complete tokenizer ({DESCRIPTION_FILE}, {RANKS_FILE}): "
                        f"{type(error).__name__}: {error}; restore the folder from the run or save it again") from error


def _encoding_from(description: dict[str, Any], ranks: dict[bytes, int]) -> Any:
    import tiktoken

    encoding = tiktoken.Encoding(description["name"], pat_str=description["pattern"], mergeable_ranks=ranks,
                                 special_tokens=description["specials"])
    if encoding.n_vocab != description["vocab_size"]:
        raise ValueError(f"{encoding.n_vocab} ids, not {description['vocab_size']}")
    return encoding


# ---- tiktoken's own files ----


def _tiktoken_encoding(name: str) -> Any:
    import requests
    import tiktoken

    known = tiktoken.list_encoding_names()
    if name not in known:
        near = difflib.get_close_matches(name, ["bytes", *known], n=1, cutoff=0.0)[0]
        raise UserError(f"tokenizer: {name!r} is unknown; did you mean {near!r}? "
                        f"There are bytes, {', '.join(sorted(known))}")
    try:
        with _bounded_downloads():
            return tiktoken.get_encoding(name)
    except requests.RequestException as error:
        reason = f"{type(error).__name__} for {error.request.url}" if error.request is not None else str(error)
        raise UserError(_how_to_get(name, reason)) from error
    except (OSError, ValueError) as error:  # a cache that cannot be written; a file with another checksum
        raise UserError(_how_to_get(name, str(error))) from error


def _how_to_get(name: str, reason: str) -> str:
    missing = [url for url in _urls(name) if not (_cache_folder() / _cache_name(url)).exists()]
    files = "; ".join(f"{url} saved as {_cache_name(url)}" for url in missing) or "the encoding's files"
    return (f"tokenizer {name}: its files are not in {_cache_folder()} and could not be downloaded ({reason}). Where "
            f"there is no network, put into a folder that TIKTOKEN_CACHE_DIR names: {files}")


def _urls(name: str) -> list[str]:
    """The addresses that stand in the code of tiktoken's constructor for this encoding."""
    from tiktoken import registry

    constants = registry.ENCODING_CONSTRUCTORS[name].__code__.co_consts
    return [value for value in constants if isinstance(value, str) and value.startswith("https://")]


def _cache_folder() -> Path:
    named = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    return Path(named) if named is not None else Path(tempfile.gettempdir()) / "data-gym-cache"


def _cache_name(url: str) -> str:
    """The file name under which tiktoken looks for a download."""
    return hashlib.sha1(url.encode()).hexdigest()


_DOWNLOADS = threading.Lock()


@contextmanager
def _bounded_downloads() -> Iterator[None]:
    """tiktoken downloads without a time limit: on a node whose network swallows packets it would wait for ever."""
    import requests
    import tiktoken.load

    def read_file(address: str) -> bytes:
        if "://" not in address:
            return Path(address).read_bytes()
        response = requests.get(address, timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S))
        response.raise_for_status()
        return response.content

    with _DOWNLOADS:
        original, tiktoken.load.read_file = tiktoken.load.read_file, read_file
        try:
            yield
        finally:
            tiktoken.load.read_file = original

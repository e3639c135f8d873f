"""The two kinds of tokenizer, plain bytes and tiktoken's byte-pair encodings, and how they are written to a folder."""

from __future__ import annotations

import base64
import errno
import json
import re
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from dstrain.config.errors import UserError

END_OF_TEXT = "<|endoftext|>"
DESCRIPTION_FILE, RANKS_FILE = "tokenizer.json", "tokenizer.tiktoken"

# tiktoken's pattern matcher gives up in runs of about 350,000 white-space characters, for most encodings.
_LONG_SPACE = re.compile(r"(\s{100000})")


class ByteTokenizer:
    """UTF-8 bytes as ids 0..255, and end-of-text."""

    name, vocab_size, eot = "bytes", 257, 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(whole_characters(text).encode("utf-8"), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return _decode(ids, self._bytes)

    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], dtype=np.int64)

    def save(self, folder: Path) -> list[Path]:
        return [_write_description(folder, {"name": self.name, "kind": "bytes"})]

    _bytes = [bytes([value]) for value in range(256)] + [END_OF_TEXT.encode()]


class TiktokenTokenizer:
    """One of tiktoken's byte-pair encodings, or one that was learned for a run."""

    def __init__(self, encoding: Any, learned: dict[str, Any] | None = None):
        self.name, self.vocab_size = encoding.name, encoding.n_vocab
        self.learned = learned
        """what it was learned from; None for tiktoken's own"""
        self._encoding = encoding
        if END_OF_TEXT not in encoding._special_tokens:
            raise UserError(f"tokenizer {self.name}: has no {END_OF_TEXT}, which separates documents; use gpt2, "
                            f"cl100k_base or o200k_base")
        self.eot = encoding._special_tokens[END_OF_TEXT]

    def encode(self, text: str) -> np.ndarray:
        text = whole_characters(text)
        try:
            return self._ids(text)
        except ValueError:  # cut inside its longest white space, a text comes through
            parts = [part for part in _LONG_SPACE.split(text) if part]
            if len(parts) == 1:
                raise
            return np.concatenate([self._ids(part) for part in parts])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return _decode(ids, self._bytes)

    def token_bytes(self) -> np.ndarray:
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, rank in self._encoding._mergeable_ranks.items():
            lengths[rank] = len(token)
        return lengths

    @property
    def ranks(self) -> dict[bytes, int]:
        """The ids of all tokens but the special ones."""
        return self._encoding._mergeable_ranks

    @property
    def pattern(self) -> str:
        """Text is cut by it first, and no token crosses a cut."""
        return self._encoding._pat_str

    @property
    def specials(self) -> dict[str, int]:
        return self._encoding._special_tokens

    def save(self, folder: Path) -> list[Path]:
        description = {"name": self.name, "kind": "tiktoken", "vocab_size": self.vocab_size,
                       "pattern": self._encoding._pat_str, "specials": self._encoding._special_tokens}
        if self.learned is not None:
            description["learned"] = self.learned
        files = [_write_description(folder, description), Path(folder) / RANKS_FILE]
        ranks = sorted(self._encoding._mergeable_ranks.items(), key=lambda item: item[1])
        _write(files[1], b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks))
        return files

    def _ids(self, text: str) -> np.ndarray:
        return _of_this_thread(self._encoding).encode_to_numpy(text, disallowed_special=()).astype(np.int32)

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = ["\N{REPLACEMENT CHARACTER}".encode()] * self.vocab_size  # some encodings have ids for nothing
        for token, rank in self._encoding._mergeable_ranks.items():
            table[rank] = token
        for text, rank in self._encoding._special_tokens.items():
            table[rank] = text.encode()
        return table


def whole_characters(text: str) -> str:
    """Halves of surrogate pairs cannot be written as UTF-8: whole pairs are joined, lone halves replaced."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_THREAD = threading.local()


def _of_this_thread(encoding: Any) -> Any:
    """A thread's own twin of an encoding; the main thread's is the encoding itself.

    Threads that share one wait for each other at its pattern's scratch memory: two were no faster than one.
    """
    if threading.current_thread() is threading.main_thread():
        return encoding
    twins = vars(_THREAD).setdefault("twins", WeakKeyDictionary())
    if encoding not in twins:
        import tiktoken

        twins[encoding] = tiktoken.Encoding(encoding.name, pat_str=encoding._pat_str,
                                            mergeable_ranks=encoding._mergeable_ranks,
                                            special_tokens=encoding._special_tokens)
    return twins[encoding]


def _decode(ids: Sequence[int] | np.ndarray, table: list[bytes]) -> str:
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(table):
        raise ValueError(f"ids from {ids.min()} to {ids.max()}, but the vocabulary has {len(table)}")
    return b"".join(table[number] for number in ids.tolist()).decode("utf-8", errors="replace")


def _write_description(folder: Path, description: dict[str, Any]) -> Path:
    path = Path(folder) / DESCRIPTION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, (json.dumps(description, indent=1, ensure_ascii=True) + "\n").encode())
    return path


def _write(path: Path, data: bytes) -> None:
    """And see that it is there: a write may be cut short without a word."""
    try:
        path.write_bytes(data)
        if path.read_bytes() != data:
            raise OSError(errno.EIO, "what was written reads back otherwise")
    except OSError as error:
        error.filename = error.filename or str(path)
        raise

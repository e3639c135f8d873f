"""What a tokenizer is, and which one a recipe's name means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dstrain.config.errors import UserError
from dstrain.data.tokenizers.encodings import ByteTokenizer, TiktokenTokenizer
from dstrain.data.tokenizers.tiktoken_files import tiktoken_encoding
from dstrain.data.tokenizers.tokenizer_folder import load_saved

LEARNED = "bpe:"
FEWEST_IDS, MOST_IDS = 257, 1_000_000


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
    """The tokenizer called `name`; from `folder`, if given, what `save` has written there.

    A name with a slash is itself such a folder; what is then saved with a run stands on its own.
    """
    if folder is not None:
        return load_saved(Path(folder), None if is_folder(name) else name)
    if is_folder(name):
        return load_saved(Path(name).expanduser(), None)
    if name.startswith(LEARNED):
        learned_size(name)
        raise UserError(f"tokenizer: {name} is learned from data.train by `dstrain train` or `dstrain prepare`, which "
                        f"keep it in a folder; to use it elsewhere, name that folder, such as "
                        f"tokenizer=runs/NAME/tokenizer")
    return ByteTokenizer() if name == "bytes" else TiktokenTokenizer(tiktoken_encoding(name))


def is_folder(name: str) -> bool:
    return "/" in name or os.sep in name


def learned_size(name: str) -> int:
    """N of bpe:N."""
    digits = name.removeprefix(LEARNED)
    if not (digits.isascii() and digits.isdigit()):
        raise UserError(f"tokenizer: {name!r}: {digits!r} is not a whole number; write for example bpe:8192")
    size = int(digits[:20])
    if size < FEWEST_IDS:
        raise UserError(f"tokenizer: {name!r}: {size} ids are too few: the 256 bytes and end-of-text are "
                        f"{FEWEST_IDS}; write for example bpe:8192")
    if size > MOST_IDS:
        raise UserError(f"tokenizer: {name!r}: more than {MOST_IDS:,} ids cannot be learned; write for example "
                        f"bpe:8192")
    return size

"""A tokenizer from the folder where it was saved: nothing else is needed, no network either."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from dstrain.config.errors import UserError
from dstrain.data.tokenizers.encodings import (
    DESCRIPTION_FILE, END_OF_TEXT, RANKS_FILE, ByteTokenizer, TiktokenTokenizer)


def load_saved(folder: Path, name: str | None) -> ByteTokenizer | TiktokenTokenizer:
    """What `save` has written there; an error unless it is called `name`, where one is given."""
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        saved, kind = description["name"], description["kind"]
        if name is not None and saved != name:
            raise UserError(f"{folder / DESCRIPTION_FILE}: holds the tokenizer {saved!r}, but {name!r} is asked for; "
                            f"set tokenizer={saved}")
        if kind == "bytes":
            return ByteTokenizer()
        if kind != "tiktoken":
            raise ValueError(f"a tokenizer of the kind {kind!r:.60}")
        encoding = encoding_of(description, _ranks(folder / RANKS_FILE))
        if END_OF_TEXT not in encoding._special_tokens:
            raise ValueError(f"it has no {END_OF_TEXT}")
        return TiktokenTokenizer(encoding, description.get("learned"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if not folder.is_dir():
            raise UserError(f"tokenizer: there is no folder {folder}; correct the path, or name a tokenizer "
                            f"such as gpt2 or bytes") from error
        raise UserError(f"{folder}: holds no complete tokenizer ({DESCRIPTION_FILE}, {RANKS_FILE}): "
                        f"{type(error).__name__}: {error}{_hint(folder)}; restore the folder from the run or save it "
                        f"again") from error


def encoding_of(description: dict[str, Any], ranks: dict[bytes, int]) -> Any:
    """tiktoken's encoding. ValueError unless the vocabulary is whole: with a byte missing, some text has no ids."""
    import tiktoken

    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise ValueError(f"{len(missing)} of the 256 bytes are no token, such as {missing[0]}")
    taken = [*ranks.values(), *description["specials"].values()]
    if len(set(taken)) < len(taken):
        raise ValueError("two tokens have the same id")
    encoding = tiktoken.Encoding(description["name"], pat_str=description["pattern"], mergeable_ranks=ranks,
                                 special_tokens=description["specials"])
    if encoding.n_vocab != description["vocab_size"]:
        raise ValueError(f"{encoding.n_vocab} ids, not {description['vocab_size']!r:.60}")
    _refuse_a_pattern_that_breaks(encoding)
    return encoding


def _refuse_a_pattern_that_breaks(encoding: Any) -> None:
    """tiktoken's matcher ends in a panic, which is no Exception, where a pattern finds a part without a character."""
    try:
        encoding.encode_ordinary("a text, \n\n and 2 more")
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":
            raise
        raise ValueError("its pattern cuts text into parts without a character") from None


def _ranks(path: Path) -> dict[bytes, int]:
    lines = path.read_bytes().splitlines()
    return {base64.b64decode(token, validate=True): int(rank) for token, rank in (line.split() for line in lines)}


def _hint(folder: Path) -> str:
    inside = folder / "tokenizer"
    return f" (did you mean {inside}?)" if (inside / DESCRIPTION_FILE).is_file() else ""

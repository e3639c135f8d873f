"""Documents in .jsonl files: one a line, parsed when it is wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from dstrain.data.reading.text import Malformed


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered as lines of the file; blank ones hold nothing."""
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def json_text(line: bytes, field: str) -> str:
    text = text_field(json_record(line), field)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Malformed(f"field {field!r} holds half a surrogate pair at character {error.start}") from error
    return text


def json_record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise Malformed(f"not an object but {type(record).__name__}")
    return record


def text_field(record: dict[str, Any], field: str) -> str:
    if field not in record:
        raise Malformed(f"no field {field!r}")
    text = record[field]
    if not isinstance(text, str):
        raise Malformed(f"field {field!r} is not text but {type(text).__name__}")
    return text

"""Which files on this machine a source names. No reader is needed for it: a login node asks, too."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.config.source_rules import ENDINGS, PACKED, READABLE


def files_named(pattern: str, place: str) -> list[Path]:
    """The files of `path`, in the order of their names."""
    expanded = os.path.expanduser(pattern)
    if os.path.isdir(expanded):
        raise UserError(f"{place}.path: {pattern!r} is a folder; say which of its files to read, for example "
                        f"{os.path.join(pattern, '*.jsonl')} or, with those in folders below, "
                        f"{os.path.join(pattern, '**', '*.parquet')}")
    named = [expanded] if os.path.exists(expanded) else glob.glob(expanded, recursive=True)
    # A set, because glob names a file several times where a pattern has several **.
    files = sorted({Path(name) for name in named if os.path.isfile(name)}, key=lambda path: path.parts)
    if not files:
        raise UserError(f"{place}.path: {pattern!r} matches no file (looked in {os.getcwd()}); "
                        f"correct the path or run from the folder that it is relative to")
    for path in files:
        if kind_of(path) not in ENDINGS or kind_of(path) == ".parquet" and packing_of(path):
            raise UserError(f"{place}.path: {path} is none of {READABLE}; rename it or narrow the pattern")
    return files


def kind_of(path: Path) -> str:
    """.txt, .jsonl, .parquet or whatever it ends in: in small letters, and below what it is packed with."""
    return (path.with_suffix("") if packing_of(path) else path).suffix.lower()


def packing_of(path: Path) -> str:
    """.gz, .zst, or nothing."""
    return path.suffix.lower() if path.suffix.lower() in PACKED else ""

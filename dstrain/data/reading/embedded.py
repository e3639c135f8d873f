"""Corpora that every machine has: the Python standard library's own source text."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dstrain.config.errors import UserError

# Not the library itself: what others installed, and what only tests or carries data.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})
_VALID_EVERY = 50


def embedded_files(name: str, part: str) -> list[Path]:
    """The corpus's files in their fixed order; of them `valid` is every 50th, `train` the others."""
    if name != "python-stdlib":
        raise UserError(f"embedded: {name!r} is no embedded corpus; there is python-stdlib")
    root = Path(sysconfig.get_path("stdlib"))
    kept = sorted(_sources_below(root), key=lambda path: path.relative_to(root).parts)
    if len(kept) < _VALID_EVERY:
        raise UserError(f"embedded: python-stdlib: {root} holds {len(kept)} .py files, not the standard library's "
                        f"source; use a Python with its library unpacked, or `path:` with text of your own")
    return [path for number, path in enumerate(kept) if part == "all" or _is_valid(number) == (part == "valid")]


def _sources_below(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in _LEFT_OUT]  # site-packages may hold 100,000 files
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _is_valid(number: int) -> bool:
    return number % _VALID_EVERY == _VALID_EVERY - 1

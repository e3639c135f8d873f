"""A user's own model class: `model.code: FILE.py:CLASS`. Its text is read once, and kept with each checkpoint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.hints import shown

SAVED = "model_code.py"
"""the text's name in a checkpoint"""

PlaceOf = Callable[[str], str]


def check_code(model: Any, place_of: PlaceOf) -> None:
    """Its form alone: the file itself may lie on another machine."""
    if model.code is None:
        return
    file, _, name = model.code.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UserError(f"{place_of('model.code')}: model.code is {shown(model.code)}, which does not name a file and "
                        f"a class in it; write FILE.py:CLASS")


def file_and_class(code: str) -> tuple[Path, str]:
    file, _, name = code.rpartition(":")
    return Path(os.path.expanduser(file)), name


@lru_cache(maxsize=16)
def text_of(code: str) -> bytes:
    """The file as it was when this process first asked: what is run is what is saved."""
    file, _ = file_and_class(code)
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"model.code: {file} cannot be read: {error.strerror} (looked in {os.getcwd()}); correct the "
                        f"path, or run from the folder that it is relative to") from None


def wherever_run(recipe: Any) -> Any:
    """The recipe with the file's whole path: for processes that may stand in other folders."""
    if recipe.model.code is None:
        return recipe
    file, name = file_and_class(recipe.model.code)
    return replace(recipe, model=replace(recipe.model, code=f"{file.resolve()}:{name}"))


def as_saved(recipe: Any, checkpoint: Path) -> Any:
    """The recipe with the class as the checkpoint keeps it, in which it was trained."""
    if recipe.model.code is None or not (checkpoint / SAVED).is_file():
        return recipe
    _, name = file_and_class(recipe.model.code)
    return replace(recipe, model=replace(recipe.model, code=f"{checkpoint / SAVED}:{name}"))


def code_changes(recipe: Any, checkpoint: Path) -> list[str]:
    """Whether the file's text is another one than the checkpoint's, in a line."""
    saved = checkpoint / SAVED
    if recipe.model.code is None or not saved.is_file():
        return []
    before, now = _digest(saved.read_bytes()), _digest(text_of(recipe.model.code))
    return [] if before == now else [f"model.code: the text of {file_and_class(recipe.model.code)[0]} (SHA-256 "
                                     f"{before} -> {now}; as it was: {saved})"]


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]

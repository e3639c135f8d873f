"""The files that a recipe's proofs rest on, as a certificate keeps them: looked at, and where large not read."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from dstrain.config.arc import PuzzleSource
from dstrain.config.errors import UserError
from dstrain.config.model_code import file_and_class, text_of
from dstrain.config.schema import Data, Recipe, Source
from dstrain.config.source_files import files_of
from dstrain.config.translate import PairSource, PairTokenizers

PACKAGES = ("torch", "deepspeed")


def hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode(errors="replace")).hexdigest()[:16]


def files_of_recipe(recipe: Recipe) -> dict[str, dict[str, Any] | None]:
    """By place in the recipe how many files there are, of how many bytes, and a digest. None: they cannot be found.

    Of data the digest is over paths, sizes and times of the last change: a terabyte is not read for it. Of prepared
    shards alone, where there are any: training reads no text then.
    """
    found = {place: _content(Path(name).expanduser()) for place, name in _tokenizers(recipe) if _is_folder(name)}
    if isinstance(recipe.data, Data) and recipe.data.prepared is not None:
        return found | {"data.prepared": _stated(lambda: _below(Path(recipe.data.prepared)))}
    for split in ("train", "valid"):
        for number, source in enumerate(getattr(recipe.data, split)):
            place = f"data.{split}.{number}"
            if source.embedded is None and (source.hub is None or os.path.isdir(os.path.expanduser(source.hub))):
                found[place] = _stated(lambda: _of_source(source, place))
    return found


def imports_hash(recipe: Recipe) -> str | None:
    """Of the user's own files that the file with the model's class imports, and that those import; None without one."""
    if recipe.model.code is None:
        return None
    file, _ = file_and_class(recipe.model.code)
    try:
        seen: dict[Path, str] = {}
        waiting = list(_imported(file.absolute(), text_of(recipe.model.code)))
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen[path] = hashlib.sha256(text := path.read_bytes()).hexdigest()
                waiting += _imported(path, text)
    except (UserError, OSError):  # said by those who need the class itself
        return None
    return hash_of(sorted(seen.values()))


def versions_here() -> dict[str, str]:
    """Without an import. Empty in a Python without torch: it is not the one that trains."""
    try:
        packages = {name: metadata.version(name) for name in PACKAGES}
    except metadata.PackageNotFoundError:
        return {}
    return {"python": python_version(), **packages}


def _tokenizers(recipe: Recipe) -> list[tuple[str, str]]:
    if isinstance(recipe.tokenizer, PairTokenizers):
        return [("tokenizer.source", recipe.tokenizer.source), ("tokenizer.target", recipe.tokenizer.target)]
    return [("tokenizer", recipe.tokenizer)]


def _is_folder(name: str) -> bool:
    """A saved tokenizer. All other names stand for one that never changes, or is learned from the data."""
    return "/" in name or os.sep in name or os.path.isdir(name)


def _of_source(source: Source | PairSource | PuzzleSource, place: str) -> list[Path]:
    return files_of(source, place) if source.hub is None else _below(Path(source.hub).expanduser())


def _below(folder: Path) -> list[Path]:
    """All files, at any depth, but for what is hidden: a download keeps its notes there."""
    return sorted(path for path in folder.rglob("*") if path.is_file()
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _stated(files: Any) -> dict[str, Any] | None:
    try:
        looks = [(str(path.resolve()), there.st_size, there.st_mtime_ns)
                 for path, there in ((path, path.stat()) for path in files())]
    except (UserError, OSError):  # said by those who read them
        return None
    size = sum(size for _, size, _ in looks)
    return {"files": len(looks), "bytes": size, "digest": hash_of(looks)} if looks else None


def _content(folder: Path) -> dict[str, Any] | None:
    try:
        texts = [(path.name, path.read_bytes()) for path in _below(folder)]
    except OSError:
        return None
    return {"files": len(texts), "bytes": sum(len(text) for _, text in texts),
            "digest": hash_of([(name, hashlib.sha256(text).hexdigest()) for name, text in texts])} if texts else None


def _imported(file: Path, text: bytes) -> Iterator[Path]:
    """The user's own files among what it imports: beside it, or where Python looks besides its libraries."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):  # said when it is loaded
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_named(alias.name, (file.parent, *_own_places()))
        elif isinstance(node, ast.ImportFrom):
            places = (file.parents[node.level - 1],) if node.level else (file.parent, *_own_places())
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                yield from _files_named(name, places)


def _files_named(module: str, places: Iterable[Path]) -> Iterator[Path]:
    """A module's file, or all of its package's."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "dstrain":
        return
    for place in dict.fromkeys(places):
        named = place.joinpath(*module.split("."))
        if (place / f"{top}.py").is_file():
            yield place / f"{top}.py"
        elif (place / top / "__init__.py").is_file():
            yield from sorted((place / top).rglob("*.py"))
        elif named.with_suffix(".py").is_file():  # a folder without __init__.py may hold anything: not searched
            yield named.with_suffix(".py")
        else:
            yield from sorted(named.glob("*.py"))


def _own_places() -> list[Path]:
    named = [name for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]
    return [Path.cwd(), *(Path(name).absolute() for name in named)]

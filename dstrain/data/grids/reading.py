"""Tasks from .json files in each of their forms; every task that is malformed is an error, with its file and name.

A file is one task, called as the file is, or many of them by name. Puzzles are few, so that none is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dstrain.config.errors import UserError
from dstrain.data.grids.json_tasks import task_of
from dstrain.data.grids.task import Task
from dstrain.data.reading.files import sound
from dstrain.data.reading.text import Malformed

TASK_KEYS = ("train", "test")


def tasks_in(files: Sequence[tuple[Path, ...]]) -> list[Task]:
    """The tasks of files, each alone or with the one that holds its solutions, in the order of files and in them."""
    found: dict[str, tuple[Task, Path]] = {}
    wrong: list[str] = []
    for paths in files:
        for name, content, solutions in _named_in(paths, wrong):
            try:
                task = task_of(name, content, solutions)
            except Malformed as error:
                wrong.append(f"{paths[0]}: task {name}: {error}")
                continue
            if name in found:
                wrong.append(f"{paths[0]}: task {name} stands in {found[name][1]}, too, and a source has each "
                             f"name once; give them as two sources, or rename it")
                continue
            found[name] = task, paths[0]
    if wrong:
        more = f" (and {len(wrong) - 1:,} more that are malformed)" if len(wrong) > 1 else ""
        raise UserError(f"{wrong[0]}; correct it or take it out{more}")
    return [task for task, _ in found.values()]


def _named_in(paths: tuple[Path, ...], wrong: list[str]) -> Iterator[tuple[str, Any, Any]]:
    """Name, content and solutions of each task; what is wrong with a file as a whole is added to `wrong`."""
    try:
        content = _json_in(paths[0])
        solutions = _solutions(content, *paths) if len(paths) > 1 else {}
        named = _by_name(paths[0], content)
    except Malformed as error:
        wrong.append(str(error))
        return
    for name, value in named.items():
        yield name, value, solutions.get(name)


def _by_name(path: Path, content: Any) -> dict[str, Any]:
    if isinstance(content, list):
        return {path.stem: content}
    if not isinstance(content, dict) or not content:
        raise Malformed(f"{path}: it holds neither a task, nor tasks by name, nor a list of pairs")
    # A task might be called train: but then an object stands there, and no list of pairs.
    return {path.stem: content} if any(isinstance(content.get(key), list) for key in TASK_KEYS) else content


def _solutions(content: Any, path: Path, solutions_path: Path) -> dict[str, Any]:
    solutions = _json_in(solutions_path)
    if not isinstance(solutions, dict) or not isinstance(content, dict):
        which = solutions_path if isinstance(content, dict) else path
        raise Malformed(f"{which}: it holds no object by the tasks' names")
    for name in content:
        if name not in solutions:
            raise Malformed(f"{solutions_path}: it has no solutions of task {name} of {path}")
    for name in solutions:
        if name not in content:
            raise Malformed(f"{solutions_path}: it has solutions of task {name}, which {path} does not hold")
    return solutions


def _json_in(path: Path) -> Any:
    with sound(path):
        text = path.read_bytes().decode("utf-8-sig")
    if not text.strip():
        raise Malformed(f"{path}: the file is empty")
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except Malformed as error:
        raise Malformed(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"{path}: not JSON at line {error.lineno}, column {error.colno} ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists within lists
        raise Malformed(f"{path}: not JSON that can be read ({error})") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"the key {twice!r} stands twice in one object")
    return found

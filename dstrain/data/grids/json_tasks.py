"""A task as JSON gives it, checked cell by cell; a `Malformed` says which pair is wrong, and how."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from dstrain.data.grids.task import COLOURS, MOST_SIDE, Example, Grid, Task, category_by_size
from dstrain.data.reading.text import Malformed

GENERATED_DEMONSTRATIONS = 3
"""of a list of generated pairs, which says of none of them what it is for"""


def task_of(name: str, content: Any, solutions: Any = None) -> Task:
    """Of {"train": [pair, ...], "test": [pair, ...]}, or of a list of pairs. `solutions`: the outputs of "test", where
    they stand elsewhere."""
    if isinstance(content, list):
        return _of_pairs(name, content)
    if not isinstance(content, dict):
        raise Malformed(f"it is {_kind(content)}, and no object with \"train\" and \"test\"")
    demonstrations = [_example(content, "train", i) for i in range(_count(content, "train"))]
    queries = [_example(content, "test", i) for i in range(_count(content, "test"))]
    for i, example in enumerate(demonstrations):
        if example.output is None:
            raise Malformed(f"pair {i + 1} of \"train\" has no output, so it demonstrates nothing")
    if solutions is not None:
        queries = _solved(queries, solutions)
    return _task(name, demonstrations, queries)


def grid_from(rows: Any) -> Grid:
    """Of a list of rows, each a list of colours; a `Malformed` says what is wrong."""
    _check_shape(rows)
    cells = list(chain.from_iterable(rows))
    if set(map(type, cells)) == {int} and min(cells) >= 0 and max(cells) < COLOURS:
        # A copy owns its cells: half the memory of a view with a buffer below it, which counts in 10**6 grids.
        grid = np.frombuffer(bytes(cells), np.uint8).reshape(len(rows), -1).copy()
        grid.setflags(write=False)
        return grid
    place, cell = next((place, cell) for place, cell in enumerate(cells)
                       if type(cell) is not int or not 0 <= cell < COLOURS)
    row, column = divmod(place, len(rows[0]))
    raise Malformed(f"row {row + 1}, column {column + 1} is {_shown(cell)}; a cell is a whole number from 0 to "
                    f"{COLOURS - 1}")


def _of_pairs(name: str, pairs: list) -> Task:
    if len(pairs) < 2:
        raise Malformed(f"it is a list of {len(pairs)} pair(s); one is to be demonstrated and another to be asked")
    examples = [_example({"list": pairs}, "list", i) for i in range(len(pairs))]
    for i, example in enumerate(examples):
        if example.output is None:
            raise Malformed(f"pair {i + 1} of the list has no output")
    shown = min(GENERATED_DEMONSTRATIONS, len(pairs) - 1)
    return _task(name, examples[:shown], examples[shown:])


def _task(name: str, demonstrations: Sequence[Example], queries: Sequence[Example]) -> Task:
    return Task(name, category_by_size(tuple(demonstrations)), tuple(demonstrations), tuple(queries))


def _count(content: dict, key: str) -> int:
    if key not in content:
        raise Malformed(f"it has no \"{key}\"")
    pairs = content[key]
    if not isinstance(pairs, list):
        raise Malformed(f"its \"{key}\" is {_kind(pairs)}, and no list of pairs")
    if not pairs:
        raise Malformed(f"its \"{key}\" is empty")
    return len(pairs)


def _example(content: dict, key: str, number: int) -> Example:
    pair, where = content[key][number], f"pair {number + 1} of " + ("the list" if key == "list" else f"\"{key}\"")
    if not isinstance(pair, dict):
        raise Malformed(f"{where} is {_kind(pair)}, and no object with \"input\" and \"output\"")
    if "input" not in pair:
        raise Malformed(f"{where} has no input")
    return Example(_grid(pair["input"], f"{where}, input"),
                   None if pair.get("output") is None else _grid(pair["output"], f"{where}, output"))


def _solved(queries: list[Example], solutions: Any) -> list[Example]:
    if not isinstance(solutions, list) or len(solutions) != len(queries):
        held = f"{len(solutions)} grid(s)" if isinstance(solutions, list) else _kind(solutions)
        raise Malformed(f"its solutions are {held}, but \"test\" asks {len(queries)} time(s)")
    grids = [_grid(rows, f"solution {i + 1}") for i, rows in enumerate(solutions)]
    for i, (query, grid) in enumerate(zip(queries, grids)):
        if query.output is not None and not np.array_equal(query.output, grid):
            raise Malformed(f"solution {i + 1} is another than the output of pair {i + 1} of \"test\"")
    return [Example(query.input, grid) for query, grid in zip(queries, grids)]


def _grid(rows: Any, where: str) -> Grid:
    try:
        return grid_from(rows)
    except Malformed as error:
        raise Malformed(f"{where}: {error}") from None


def _check_shape(rows: Any) -> None:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        held = _kind(rows) if not isinstance(rows, list) else _kind(next(r for r in rows if not isinstance(r, list)))
        raise Malformed(f"a grid is a list of rows, and a row a list of cells; here is {held}")
    widths = [len(row) for row in rows]
    if not rows or not widths[0]:
        raise Malformed("the grid is empty")
    for number, width in enumerate(widths):
        if width != widths[0]:
            raise Malformed(f"rows of different lengths: {widths[0]} cell(s) in row 1, {width} in row {number + 1}")
    if max(len(rows), widths[0]) > MOST_SIDE:
        raise Malformed(f"the grid has {len(rows)} row(s) of {widths[0]} cell(s); a side is {MOST_SIDE} at most")


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number",
            type(None): "null"}[type(value)]


def _shown(cell: Any) -> str:
    names = {True: "true", False: "false"}
    return names[cell] if isinstance(cell, bool) else "null" if cell is None else (
        _kind(cell) if isinstance(cell, (list, dict)) else repr(cell)[:40])

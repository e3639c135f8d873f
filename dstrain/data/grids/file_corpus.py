"""A source of puzzles in files: its tasks, held in memory, and the questions that they ask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from dstrain.config.arc import PuzzleSource
from dstrain.config.errors import UserError
from dstrain.config.source_files import puzzle_files
from dstrain.data.grids.canonical import is_to_validate
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.reading import tasks_in
from dstrain.data.grids.task import Example, Task
from dstrain.data.reading.files import readable

Look = tuple[Path, int, int]
"""a file, its size and when it was changed"""


class FilePuzzles:
    """Errors come at once: no such file, a malformed task, none that can be trained on."""

    def __init__(self, source: PuzzleSource, number: int, place: str):
        self.number = number
        self.name = f"{place} ({source.path})"
        files = puzzle_files(source, place)
        self.file_count = sum(map(len, files))
        looks = tuple(tuple(map(_look, paths)) for paths in files)
        self._tasks = _tasks(looks) if source.part == "all" else _parts(looks)[source.part]
        if not self._tasks:
            raise UserError(f"{place}: none of the {len(_tasks(looks)):,} task(s) of {source.path} is of the part "
                            f"{source.part!r}, which is chosen task by task; give more tasks, or part: all")
        # Two numbers a question: a million of generated pairs are no million of objects.
        self._questions = np.array([(t, e) for t, task in enumerate(self._tasks) for e in _askable(task)],
                                   np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._questions)

    def question(self, number: int) -> Question:
        task, example = self._questions[number].tolist()
        return Question(self._tasks[task], self._tasks[task].examples[example])

    def to_validate(self) -> Iterator[Question]:
        return (Question(task, query) for task in self._tasks for query in task.queries if query.output is not None)

    def tasks(self) -> Iterator[Task]:
        return iter(self._tasks)

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        digest = hashlib.blake2b(digest_size=8)
        for task in self._tasks:
            digest.update(bytes(f"{len(task.demonstrations)} {len(task.queries)} ", "ascii"))
            for grid in (grid for example in task.examples for grid in example):
                digest.update(b"-" if grid is None else bytes(grid.shape) + grid.tobytes())
        return {"count": self.file_count, "digest": digest.hexdigest()}


def _askable(task: Task) -> list[int]:
    """The examples that have another beside them with another input, as `shown_beside` finds it: all or none."""
    known = [number for number, example in enumerate(task.examples) if example.output is not None]
    return known if len({_input(task.examples[number]) for number in known}) > 1 else []


def _input(example: Example) -> tuple[tuple[int, ...], bytes]:
    return example.input.shape, example.input.tobytes()


def _look(path: Path) -> Look:
    with readable(path):
        there = path.stat()
    return path, there.st_size, there.st_mtime_ns


@lru_cache(maxsize=4)
def _tasks(looks: tuple[tuple[Look, ...], ...]) -> tuple[Task, ...]:
    """Once, as long as the files stay as they were: a source is opened for training, validation and proofs."""
    return tuple(tasks_in([tuple(path for path, _, _ in paths) for paths in looks]))


@lru_cache(maxsize=4)
def _parts(looks: tuple[tuple[Look, ...], ...]) -> dict[str, tuple[Task, ...]]:
    found: dict[str, list[Task]] = {"train": [], "valid": []}
    for task in _tasks(looks):
        found["valid" if is_to_validate(task) else "train"].append(task)
    return {part: tuple(tasks) for part, tasks in found.items()}

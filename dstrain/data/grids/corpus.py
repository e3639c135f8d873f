"""What a source of puzzles is, whatever it reads: questions by number, and what tells it from another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from dstrain.data.grids.task import Example, Task


class Question(NamedTuple):
    task: Task
    query: Example
    """one of the task's examples, whose output is known"""


class PuzzleCorpus(Protocol):
    name: str
    """place in the recipe and what it reads, for messages"""
    number: int
    """of the source within data.train or data.valid"""

    file_count: int
    """0: it is embedded"""

    @property
    def fingerprint(self) -> dict[str, Any]: ...
    """{"count": file_count, "digest": of the tasks' contents}: the same wherever the files lie"""

    def __len__(self) -> int: ...
    """questions to train on: each example of each task that has another to be shown beside it"""

    def question(self, number: int) -> Question: ...
    """of those; a pure function of the number"""

    def to_validate(self) -> Iterator[Question]: ...
    """the tasks' own queries, in the order of the tasks"""

    def tasks(self) -> Iterator[Task]: ...

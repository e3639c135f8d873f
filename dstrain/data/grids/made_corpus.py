"""The source `embedded: puzzles`: made by rule, a million to train on and 350 to validate on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from dstrain.data.grids.corpus import Question
from dstrain.data.grids.made.tasks import KINDS, TO_TRAIN, made_task
from dstrain.data.grids.task import Task

TO_VALIDATE = 50 * len(KINDS)
_WITNESSES = range(0, 1000 * len(KINDS), 997)


class MadePuzzles:
    """Task n to train on is the puzzle of number n; those of `valid` have the numbers behind them."""

    file_count = 0

    def __init__(self, number: int, place: str, part: str):
        self.number, self.name = number, f"{place}: made puzzles, part {part}"
        self._numbers = range(TO_TRAIN, TO_TRAIN + TO_VALIDATE) if part == "valid" else range(TO_TRAIN)
        self._part = part

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Of the rules as they are in this release, and of the part: some puzzles stand for all."""
        digest = hashlib.blake2b(f"{self._numbers}".encode(), digest_size=8)
        for number in _WITNESSES:
            for example in made_task(number).examples:
                for grid in example:
                    digest.update(bytes(grid.shape) + grid.tobytes())
        return {"count": 0, "digest": digest.hexdigest()}

    def __len__(self) -> int:
        return len(self._numbers)

    def question(self, number: int) -> Question:
        task = made_task(self._numbers[number])
        return Question(task, task.queries[0])

    def to_validate(self) -> Iterator[Question]:
        """Of every part those of `valid`: nobody wants to answer a million."""
        return (Question(task, task.queries[0]) for task in MadePuzzles(self.number, "", "valid").tasks())

    def tasks(self) -> Iterator[Task]:
        return (made_task(number) for number in self._numbers)

"""The chance of one made puzzle: splitmix64's own sequence, drawn by the block, the same in every release of numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK = 512
"""draws at a time: most puzzles need one block"""


class Chance:
    def __init__(self, key: int):
        self._key, self._blocks, self._next = key, 0, BLOCK
        self._draws, self._listed = np.empty(0, np.uint64), []

    def below(self, end: int) -> int:
        """One of 0 .. end - 1."""
        place = self._some(1)  # may fetch the block
        return self._listed[place] * end >> 32

    def many_below(self, end: int, count: int) -> np.ndarray:
        """Each one of 0 .. end - 1, uint64."""
        first = self._some(count)
        return self._draws[first:first + count] * np.uint64(end) >> np.uint64(32)

    def of(self, these: Sequence[int]) -> int:
        return these[self.below(len(these))]

    def some_of(self, these: Sequence[int], count: int) -> list[int]:
        """So many of them, none twice."""
        rest = list(these)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]

    def places(self, end: int, count: int) -> np.ndarray:
        """So many of 0 .. end - 1, none twice."""
        first = self._some(end)
        return np.argsort(self._draws[first:first + end], kind="stable")[:count]

    def _some(self, count: int) -> int:
        """Where the next draws stand, each of 32 bits. What is left of a block is dropped where it does not suffice."""
        if count > BLOCK:
            raise ValueError(f"{count} draws at once; there are {BLOCK} in a block")
        if self._next + count > BLOCK:
            self._draws, self._next = _block(self._key, self._blocks), 0
            self._listed = self._draws.tolist()  # numpy is slow to give one number
            self._blocks += 1
        first = self._next
        self._next += count
        return first


_STEPS = np.arange(1, BLOCK + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _block(key: int, number: int) -> np.ndarray:
    start = (key + number * BLOCK * 0x9E3779B97F4A7C15) % (1 << 64)
    state = _STEPS + np.uint64(start)  # arrays of 64 bits wrap, as splitmix64 wants it
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) >> np.uint64(32)

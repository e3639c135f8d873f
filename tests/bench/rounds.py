"""Fair timing on a machine that others use too: contenders take turns, and are compared within each round.

A round gives every contender one turn, in an order that rotates from round to round, so that what slows the machine
for a while slows all of them. What is compared is the ratio within a round; its median and quartiles are shown.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """What one turn took."""

    wall_s: float
    cpu_s: float
    """of all threads of this process; 0 where the work is done elsewhere (a GPU, another process)"""


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    """first quartile"""
    high: float
    """third quartile"""

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        values = sorted(values)
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high}


def take_turns(contenders: dict[str, Callable[[], object]], rounds: int, warmup_rounds: int = 1,
               finish: Callable[[], object] = lambda: None,
               say: Callable[[str], None] = lambda text: None) -> dict[str, list[Turn]]:
    """Each contender's turns, round by round; those of the first `warmup_rounds` are not kept.

    `finish` waits for work that is still under way (on a GPU) and is part of the turn.
    """
    names = list(contenders)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(warmup_rounds + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            finish()
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            finish()
            turn = Turn(time.perf_counter() - wall, time.process_time() - cpu)
            if number >= warmup_rounds:
                turns[name].append(turn)
        kept = number + 1 - warmup_rounds
        say(f"round {kept} of {rounds}" if kept > 0 else f"warm-up round {number + 1} of {warmup_rounds}")
    return turns


def ratio(turns: list[Turn], yardstick: list[Turn], clock: str) -> Spread:
    """`turns` over `yardstick`, round by round, by the clock `wall_s` or `cpu_s`."""
    return Spread.of(getattr(a, clock) / getattr(b, clock) for a, b in zip(turns, yardstick, strict=True))


def fastest(turns: dict[str, list[Turn]], clock: str = "wall_s") -> str:
    """The name whose median turn is the shortest."""
    return min(turns, key=lambda name: statistics.median(getattr(turn, clock) for turn in turns[name]))

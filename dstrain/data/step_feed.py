"""What every feed of training steps is: steps prepared ahead in a thread, each with the place to continue from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

from dstrain.data.prefetch import Prefetched


@dataclass(frozen=True)
class Step:
    """What one rank trains on in one optimizer step."""

    number: int
    """of the optimizer step, from 1"""
    micro_batches: list[Any]
    """equal in number on all ranks, and where rows are packed in shape"""
    place: dict[str, Any]
    """plain JSON: where the data go on after this step"""
    rows_hash: int
    """this rank's part of the ledger's hash: the ranks' sum, wrapped to int64, is the step's"""
    stats: dict[str, Any]
    """of this rank: `scored` targets, `targets_by_source` (the same, a list), `positions` (filler and padding too),
    `filled` ones that hold a token, `words` and `documents` that started, `cut` documents that go on in a later row,
    `bad_lines` since this process began, `epochs`: whole ones, per source"""
    wait_s: float = 0.0
    """how long next() waited for it"""


class StepFeed:
    """One rank's steps, for ever. `produce(stop)` makes them until `stop` is set."""

    def __init__(self, produce: Callable[[Event], Iterator[Step]], ahead: int, rank: int):
        self._steps = Prefetched(produce, ahead, name=f"train feed of rank {rank}")

    def __iter__(self) -> StepFeed:
        return self

    def __next__(self) -> Step:
        asked = time.perf_counter()
        step = next(self._steps)
        return replace(step, wait_s=time.perf_counter() - asked)

    def close(self) -> None:
        """Ends the thread. Steps that were prepared and not taken are in nobody's place."""
        self._steps.close()

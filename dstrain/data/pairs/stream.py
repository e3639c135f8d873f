"""Endless streams of pairs, one a source, and how sources are mixed. Where one stands is a few integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from threading import Event
from typing import Callable

from dstrain.config.errors import UserError
from dstrain.data.pairs.blocks import Block, BlockStart
from dstrain.data.pairs.pair import Pair
from dstrain.data.prefetch import Prefetched

STATE = ("epoch", "file", "document", "seen", "bad", "index", "given")
"""where the block begins, how many of its pairs are done, and how many targets were given in all"""


class PairStream:
    """One source's pairs. The next block is read in a thread beside the one that is under way."""

    def __init__(self, name: str, blocks: Callable[[BlockStart, Event], Iterator[Block]], state: dict[str, int]):
        state = dict(state)
        self._name = name
        self.given, self._index = state.pop("given"), state.pop("index")
        self._start = BlockStart(**state)
        start = self._start  # as it is now: the thread may begin later
        self._blocks = Prefetched(lambda stop: blocks(start, stop), depth=1, name=f"pairs of {name}")
        self._block: Block | None = None
        self.over_long = 0
        """pairs that were passed over because a side of them is too long"""

    def state(self) -> dict[str, int]:
        return asdict(self._start) | {"index": self._index, "given": self.given}

    @property
    def epoch(self) -> int:
        return self._start.epoch

    def peek(self) -> Pair:
        """The next pair to train on."""
        while True:
            if self._block is None:
                self._load()
            pair = self._block.pair(self._index)
            if len(pair.targets):
                return pair
            self.over_long += 1
            self._go_on()

    def take(self) -> Pair:
        pair = self.peek()
        self.given += len(pair.targets)
        self._go_on()
        return pair

    def close(self) -> None:
        self._blocks.close()

    def _go_on(self) -> None:
        self._index += 1
        if self._index == len(self._block):
            self._start, self._index, self._block = self._block.behind, 0, None

    def _load(self) -> None:
        self._block = next(self._blocks)
        self._start = self._block.start  # further than where it stood, if there the epoch ended
        if self._index >= len(self._block):
            raise UserError(f"{self._name}: the checkpoint stands at a pair that is not there: the files have changed "
                            f"since. Restore them, or start the run anew with --fresh")


class Mix:
    """The streams as one, so that each gives its share of the target tokens."""

    def __init__(self, streams: Sequence[PairStream], weights: Sequence[float]):
        self.streams = streams
        self._shares = [weight / sum(weights) for weight in weights]

    def take(self) -> tuple[int, Pair]:
        """(number of the source, its next pair): of the source that, with half of its next pair, is furthest behind.

        A function of what was given and of the next pairs: a stream that is resumed mixes as if it had never stopped.
        """
        if len(self.streams) == 1:
            return 0, self.streams[0].take()
        due = [(stream.given + len(stream.peek().targets) / 2) / share
               for share, stream in zip(self._shares, self.streams)]
        source = due.index(min(due))
        return source, self.streams[source].take()

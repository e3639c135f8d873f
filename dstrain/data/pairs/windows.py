"""A window of pairs: sorted by length, cut into global batches under a token budget, and their order.

All of it is a function of the window and the seed; `rows_of_rank` then deals a batch to ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dstrain.config.shape import Shape
from dstrain.data.hashing import WINDOWS, permutation
from dstrain.data.pairs.pair import Pair
from dstrain.data.pairs.stream import Mix


@dataclass(frozen=True)
class Window:
    number: int
    pairs: list[Pair]
    sources: list[int]
    """the number of the source of each"""
    over_long: int
    """pairs that were passed over while it was filled"""

    def batches(self, tokens: int, seed: int) -> list[list[int]]:
        """The pairs' places in the window, by global batch, each batch sorted by length. Short ones and long ones come
        in no order."""
        lengths = [(len(pair.source), len(pair.targets)) for pair in self.pairs]
        found = cut_by_length(lengths, tokens)
        return [found[place] for place in permutation(len(found), WINDOWS, seed, self.number)]


def next_window(number: int, mix: Mix, size: int) -> Window:
    before = sum(stream.over_long for stream in mix.streams)
    taken = [mix.take() for _ in range(size)]
    over_long = sum(stream.over_long for stream in mix.streams) - before
    return Window(number, [pair for _, pair in taken], [source for source, _ in taken], over_long)


def cut_by_length(lengths: Sequence[tuple[int, int]], tokens: int) -> list[list[int]]:
    """Places in `lengths` (of source and target), cut so that pairs x the longest side is at most `tokens`.

    As few batches as this order allows, and then as even ones as possible: the last is no small rest.
    """
    order, longest = sorted_by_length(lengths)
    most = smallest_budget(lambda budget: len(_cuts(longest, budget)), int(longest[-1]), tokens)
    cuts = [*_cuts(longest, most), len(order)]
    return [order[start:end].tolist() for start, end in zip([0, *cuts], cuts)]


def sorted_by_length(lengths: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Places, by the longest side, and those longest sides.

    Among equal ones, what the source has more than the target goes up and down in turns: neighbours are alike in both
    lengths, also where one longest side gives way to the next. What is equal in both keeps the window's order.
    """
    source, target = np.array(lengths).T
    longest = np.maximum(source, target)
    more = np.where(longest % 2, source - target, target - source)
    order = np.lexsort((more, longest))
    return order, longest[order]


def rows_of_rank(count: int, rank: int, shape: Shape) -> list[range]:
    """Of a batch of `count` rows, sorted by length, this rank's, by micro-batch: neighbours run together, and all ranks
    have rows of about the same lengths. A range is empty where there are not enough rows for all."""
    passes = shape.accumulation
    return [range(count * number // passes + rank, count * (number + 1) // passes, shape.world)
            for number in range(passes)]


def _cuts(longest: np.ndarray, tokens: int) -> list[int]:
    """Where further batches begin, each as full as `tokens` allows."""
    cuts: list[int] = []
    start = 0
    while True:
        behind = longest[start:start + tokens]  # a pair has at least one token a side
        fits = np.searchsorted(behind * np.arange(1, len(behind) + 1), tokens, side="right")
        start += max(1, int(fits))
        if start >= len(longest):
            return cuts
        cuts.append(start)


def smallest_budget(cuts_with: Callable[[int], int], least: int, tokens: int) -> int:
    """The smallest budget with which there are no more cuts than with `tokens`. `least`: what one row takes."""
    most = cuts_with(tokens)
    low, high = least, tokens
    while low < high:
        middle = (low + high) // 2
        if cuts_with(middle) <= most:
            high = middle
        else:
            low = middle + 1
    return high

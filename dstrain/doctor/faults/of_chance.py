"""Faults of what is drawn: dropout, orders, first weights, shares; and of scores that repeat a loss in other words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dstrain.data import lanes, scan
from dstrain.data.grids import draws, grid_feed, row
from dstrain.data.grids.draws import Mixed
from dstrain.data.grids.views import View
from dstrain.data.lanes import Lane
from dstrain.data.pairs import blocks, windows
from dstrain.data.pairs.stream import Mix
from dstrain.doctor.faults.planting import put
from dstrain.nn import transformer
from dstrain.nn.chance import KeyedDropout, keep_mask
from dstrain.train import evaluate, step


def mean_not_kept() -> None:
    """What stays is not scaled: in evaluation all sums are larger than the model has ever seen."""
    inner = KeyedDropout.forward

    def wrong(self: KeyedDropout, x_BTC: torch.Tensor, *arguments: Any) -> torch.Tensor:
        dropped_BTC = inner(self, x_BTC, *arguments)
        return dropped_BTC if dropped_BTC is x_BTC else dropped_BTC * (1 - self.rate)

    put(KeyedDropout, "forward", wrong)


def half_as_much_dropped() -> None:
    put(KeyedDropout, "_keep", lambda self, keys_B, slots_T, channels: keep_mask(
        keys_B, self.site, slots_T, channels, self.rate / 2))


def same_mask_each_step() -> None:
    inner = step.row_keys
    put(step, "row_keys", lambda seed, number, rows_B: inner(seed, 1, rows_B))


def masks_of_no_seed() -> None:
    inner = step.row_keys
    put(step, "row_keys", lambda seed, number, rows_B: inner(0, number, rows_B))


def same_mask_for_each_row() -> None:
    """The same key for all rows of a batch: `expand` in the place of a draw."""
    inner = step.row_keys
    put(step, "row_keys", lambda seed, number, rows_B: inner(seed, number, torch.zeros_like(rows_B)))


def never_shuffled() -> None:
    """Files, blocks and windows as they come; puzzles always in the same view."""
    for owner in (lanes, scan, windows, grid_feed, row):
        put(owner, "permutation", lambda size, *key: list(range(size)))
    put(blocks, "order_of", lambda keys, *key: torch.arange(len(keys)).numpy())
    put(draws, "_order", lambda count, *key: range(count))
    put(row, "view_of", lambda *key: View())


def weights_of_no_seed() -> None:
    inner = transformer.initial_weight
    put(transformer, "initial_weight", lambda name, shape, std, seed: inner(name, shape, std, 0))


def source_weights_ignored() -> None:
    for owner in (Lane, Mix, Mixed):
        inner = owner.__init__

        def wrong(self: Any, streams: Sequence[Any], weights: Sequence[float], inner: Any = inner) -> None:
            inner(self, streams, [1.0] * len(weights))

        put(owner, "__init__", wrong)


def perplexity_halved() -> None:
    _score("perplexity", 0.5)


def bits_for_nats() -> None:
    """A byte's loss in natural logarithms, called bits: less than seven tenths of them."""
    _score("bits_per_byte", 0.6931471805599453)


def _score(name: str, factor: float) -> None:
    inner = evaluate._scores

    def wrong(nll: torch.Tensor, counts: torch.Tensor, objective: Any) -> dict:
        scores = inner(nll, counts, objective)
        return scores | {name: scores[name] * factor}

    put(evaluate, "_scores", wrong)

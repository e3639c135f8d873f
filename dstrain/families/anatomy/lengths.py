"""Rows cut to very different lengths: in such steps a mean of means shows."""

from __future__ import annotations

import torch

from dstrain.data.hashing import mix


def ragged_lengths(step: int, rows_B: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Two rows of three cut to a quarter or less, by step and row number alone; fillers stay as they are."""
    return torch.tensor([_cut(step, row, length) for row, length in zip(rows_B.tolist(), lengths_B.tolist())],
                        dtype=torch.int64)


def _cut(step: int, row: int, length: int) -> int:
    if row < 0 or (step + row) % 3 == 0:
        return length
    return max(1, length >> (2 + mix(step, row) % 4))

"""The key-value cache of generation: allocated once, filled row by row, each row at its own length.

Shapes: L layers, B rows, N rows that are picked, S slots, T new positions, H heads, D channels of a head.

Rows are filled from the left. New tokens come right-padded; a padding position writes into one slot beyond the
capacity that nobody reads, so that a row may also have nothing new at all (it has ended, its neighbours go on).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LayerMemory(NamedTuple):
    """One layer's part of the cache, and where this call's keys and values go."""

    k_BSHD: Tensor
    v_BSHD: Tensor
    rows_B1: Tensor
    slots_BT: Tensor
    seen: int

    def append(self, k_BTHD: Tensor, v_BTHD: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values; returns all that may be attended."""
        self.k_BSHD[self.rows_B1, self.slots_BT] = k_BTHD
        self.v_BSHD[self.rows_B1, self.slots_BT] = v_BTHD
        return self.k_BSHD[:, :self.seen], self.v_BSHD[:, :self.seen]


class Extension(NamedTuple):
    """What one call adds: positions within the row, and which slots each new position may attend."""

    positions_BT: Tensor
    can_attend_B1TS: Tensor
    memories: list[LayerMemory]


class KvCache:
    def __init__(self, rows: int, capacity: int, layers: int, heads: int, head_width: int, dtype: torch.dtype,
                 device: torch.device) -> None:
        self.capacity = capacity
        # Zeros: a slot that a row has not filled is masked, but its value times 0 must be 0.
        self.k_LBSHD = torch.zeros(layers, rows, capacity + 1, heads, head_width, dtype=dtype, device=device)
        self.v_LBSHD = torch.zeros_like(self.k_LBSHD)
        self.lengths_B = torch.zeros(rows, dtype=torch.long, device=device)

    def extend(self, new_length: int, lengths_B: Tensor) -> Extension:
        """Makes room for `new_length` positions, of which the first `lengths_B[b]` are row b's new tokens."""
        offsets_T = torch.arange(new_length, device=lengths_B.device)
        is_new_BT = offsets_T < lengths_B[:, None]
        places_BT = self.lengths_B[:, None] + offsets_T
        self.lengths_B = self.lengths_B + lengths_B
        seen = int(self.lengths_B.max())
        if seen > self.capacity:
            raise ValueError(f"a row of {seen} tokens does not fit the cache's {self.capacity}: make a larger cache or"
                             " stop the row earlier")
        slots_BT = torch.where(is_new_BT, places_BT, self.capacity)
        positions_BT = torch.where(is_new_BT, places_BT, 0)
        # Padding looks at slot 0, which every row has filled: nobody reads the answer, but it is not NaN.
        can_attend_BTS = torch.arange(seen, device=lengths_B.device) <= positions_BT[:, :, None]
        rows_B1 = torch.arange(len(lengths_B), device=lengths_B.device)[:, None]
        memories = [LayerMemory(self.k_LBSHD[layer], self.v_LBSHD[layer], rows_B1, slots_BT, seen)
                    for layer in range(len(self.k_LBSHD))]
        return Extension(positions_BT, can_attend_BTS.unsqueeze(1), memories)

    def take_back(self, counts_B: Tensor) -> None:
        """Each row's last tokens, so many, are gone: what comes next is written over them, and nobody attends them."""
        self.lengths_B = self.lengths_B - counts_B

    def pick(self, rows_N: Tensor) -> None:
        """From now on it has these of its rows, in this order; a row may come several times, for a search's beams.

        In the memory that is there, where it is enough: a search picks at every step.
        """
        filled, before = int(self.lengths_B.max()), (*self.k_LBSHD, *self.v_LBSHD)
        if len(rows_N) > self.k_LBSHD.shape[1]:
            shape = self.k_LBSHD.shape
            self.k_LBSHD = self.k_LBSHD.new_zeros(shape[0], len(rows_N), *shape[2:])
            self.v_LBSHD = torch.zeros_like(self.k_LBSHD)
        self.k_LBSHD, self.v_LBSHD = self.k_LBSHD[:, :len(rows_N)], self.v_LBSHD[:, :len(rows_N)]
        # Layer by layer: twice as fast on a CPU, whose cache then holds what is picked.
        for old_BSHD, new_NSHD in zip(before, (*self.k_LBSHD, *self.v_LBSHD), strict=True):
            new_NSHD[:, :filled] = old_BSHD[:, :filled].index_select(0, rows_N)
        self.lengths_B = self.lengths_B[rows_N]

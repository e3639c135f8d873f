"""Where each of Muon's matrices lies among the ranks, and which rank puts which together in which turn.

A parameter may be several matrices, one below the other (query, key and value). ZeRO cuts them anywhere: each rank
knows all ranks' parts, so that all make the same plan without asking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import Iterable, Sequence

import torch

from dstrain.runtime.dist import Ranks
from dstrain.runtime.fragments import Place


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix of rows x cols, and this rank's part of it: from `offset` on in `flat`."""

    rows: int
    cols: int
    sizes: tuple[int, ...]
    """how many elements each rank holds; in rank order they are the matrix"""
    unit: int
    """number of the flat tensor that its parts lie in: those of one number are updated in one call"""
    flat: torch.Tensor | None
    """None where this rank holds nothing"""
    offset: int
    size: int

    @property
    def elements(self) -> int:
        return self.rows * self.cols

    @property
    def work(self) -> int:
        """Multiplications of one product of the matrix with its transpose."""
        return self.elements * min(self.rows, self.cols)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's part, in `flat` or in what is laid out as it is."""
        return tensor.view(-1).narrow(0, self.offset, self.size)


Turn = tuple[Matrix | None, ...]
"""for each rank the matrix that it puts together; None: it only hands out its parts of the others'"""


def lay_out(stacked: dict[str, int], shapes: dict[str, tuple[int, ...]], places: Iterable[Place],
            flats: Sequence[torch.Tensor], ranks: Ranks, replicated: bool) -> list[Matrix]:
    """All matrices, in the same order on all ranks; `stacked` says of how many each parameter is made, row on row.

    `replicated`: every rank holds all of every matrix (ZeRO stage 0).
    """
    unit_of = {id(flat): number for number, flat in enumerate(flats)}
    own = {}
    for place in places:
        count = stacked.get(place.name, 0)
        for block in range(count):
            size = math.prod(shapes[place.name]) // count
            first = max(place.start, block * size)
            end = min(place.start + place.size, (block + 1) * size)
            if first < end:
                own[place.name, block] = (unit_of[id(place.flat)], first - block * size, end - first, place.flat,
                                          place.offset + first - place.start)
    of_ranks = ranks.gather({key: part[:3] for key, part in own.items()})
    return [_matrix(name, block, count, shapes[name], [parts.get((name, block)) for parts in of_ranks],
                    own.get((name, block)), replicated)
            for name, count in stacked.items() for block in range(count)]


def _matrix(name: str, block: int, count: int, shape: tuple[int, ...], parts: list[tuple[int, int, int] | None],
            own: tuple | None, replicated: bool) -> Matrix:
    if len(shape) != 2 or shape[0] % count:
        raise ValueError(f"{name} of shape {tuple(shape)} is not made of {count} equal matrices, row on row; correct "
                         "the model's hidden_matrices()")
    rows, cols = shape[0] // count, shape[1]
    sizes = [0 if part is None else part[2] for part in parts]
    expected = [0 if replicated else sum(sizes[:rank]) for rank in range(len(parts))]
    in_order = all(part is None or part[1] == start for part, start in zip(parts, expected))
    whole = all(size == rows * cols for size in sizes) if replicated else sum(sizes) == rows * cols
    if not (in_order and whole):
        raise RuntimeError(f"the ranks' parts of {name} ({sizes} elements) do not add up to its matrix {block} of "
                           f"{rows} x {cols}; leave settings that reorder DeepSpeed's partitions at their defaults")
    unit, = {part[0] for part in parts if part is not None}
    return Matrix(rows, cols, tuple(sizes), unit, own[3] if own else None, own[4] if own else 0, own[2] if own else 0)


def turns(matrices: Sequence[Matrix], world: int) -> list[Turn]:
    """Who puts together what, at most one matrix a rank and turn: a rank that holds most of it, or half as much as
    the rank that does, and of these the one with the least work so far."""
    work, of_rank = [0] * world, [[] for _ in range(world)]
    for matrix in matrices:
        most = max(matrix.sizes)
        owner = min((rank for rank in range(world) if 2 * matrix.sizes[rank] >= most), key=lambda rank: work[rank])
        work[owner] += matrix.work
        of_rank[owner].append(matrix)
    return list(zip_longest(*of_rank))

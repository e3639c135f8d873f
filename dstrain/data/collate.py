"""From rows to a Batch: the only place where labels are made, and where padding, segments and positions come from.

Tensor names end in their shape: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import LongTensor, Tensor

from dstrain.config.schema import Recipe
from dstrain.data.hashing import row_hash

UNSCORED = -100
FILLER_ROW = -1


@dataclass(frozen=True)
class Part:
    """What one row holds of one document."""

    before: int | None
    """the token before the first target; None at the document's start, where end-of-text stands for it"""
    targets: np.ndarray
    words: int
    """words of the document if it starts here, else 0"""
    goes_on: bool
    """the document does not end here: the rest stands in the lane's next row"""


@dataclass(frozen=True)
class Row:
    number: int
    """in the global batch"""
    parts: Sequence[Part]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank. It stays outside the module, which gets `inputs()`."""

    ids_BT: LongTensor
    """clean ids; padding positions hold 0"""
    labels_BT: LongTensor
    """the next token within the document; -100 where nothing is scored"""
    lengths_B: LongTensor
    """padding is where position >= length; filler rows have length 0"""
    segments_BT: LongTensor
    """number of the document within the row, from 0; padding: -1"""
    positions_BT: LongTensor
    """place within the document's part in this row, from 0; padding: 0"""
    rows_B: LongTensor
    """number of the row in the global batch; filler rows: -1"""
    words: int
    """words, WikiText's way, of the documents that start in these rows"""

    def inputs(self) -> dict[str, Tensor]:
        """What models take by keyword."""
        return {"ids_BT": self.ids_BT, "segments_BT": self.segments_BT, "positions_BT": self.positions_BT}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return replace(self, **{name: tensor.to(device, non_blocking=non_blocking)
                                for name, tensor in self._tensors().items()})

    def pin(self) -> Batch:
        """The same in pinned memory, from where copies to a GPU run beside its work."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "words"}


def collate(rows: Sequence[Row], micro_rows: int, length: int, eot: int) -> Batch:
    """A micro-batch of `micro_rows` rows; filler rows, which score nothing, stand in for missing ones."""
    shape = micro_rows, length
    ids_BT, labels_BT = np.zeros(shape, np.int64), np.full(shape, UNSCORED, np.int64)
    segments_BT, positions_BT = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    lengths_B, rows_B = np.zeros(micro_rows, np.int64), np.full(micro_rows, FILLER_ROW, np.int64)
    for b, row in enumerate(rows):
        rows_B[b] = row.number
        end = 0
        for segment, part in enumerate(row.parts):
            start, end = end, end + len(part.targets)
            labels_BT[b, start:end] = part.targets
            ids_BT[b, start] = eot if part.before is None else part.before
            ids_BT[b, start + 1:end] = part.targets[:-1]
            segments_BT[b, start:end] = segment
            positions_BT[b, start:end] = np.arange(end - start)
        lengths_B[b] = end
    arrays = {"ids_BT": ids_BT, "labels_BT": labels_BT, "lengths_B": lengths_B, "segments_BT": segments_BT,
              "positions_BT": positions_BT, "rows_B": rows_B}
    words = sum(part.words for row in rows for part in row.parts)
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()}, words=words)


def part_of(targets: np.ndarray, start: int, room: int, words: int) -> Part:
    """A document's targets from `start` on, `room` of them at most. `words` are the whole document's."""
    end = min(start + room, len(targets))
    return Part(before=int(targets[start - 1]) if start else None, targets=targets[start:end],
                words=0 if start else words, goes_on=end < len(targets))


def filler_batch(recipe: Recipe, micro_rows: int) -> Batch:
    """A micro-batch that scores nothing, in the shape of all others: for a rank that has run out of rows."""
    return collate([], micro_rows, recipe.batch.length, eot=0)


def hash_of_rows(batch: Batch) -> int:
    """Sum of the hashes of the batch's real rows (an unbounded integer: wrap it last)."""
    ids_BT, labels_BT, segments_BT = batch.ids_BT.numpy(), batch.labels_BT.numpy(), batch.segments_BT.numpy()
    return sum(row_hash(row, ids_BT[b], labels_BT[b], segments_BT[b])
               for b, row in enumerate(batch.rows_B.tolist()) if row != FILLER_ROW)

"""From pairs of token rows to a PairBatch: the only place where a pair's labels are made, and its padding.

Tensor names end in their shape: B rows, S tokens of a source, T tokens of a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import LongTensor, Tensor

from dstrain.data.collate import FILLER_ROW, UNSCORED
from dstrain.data.hashing import row_hash
from dstrain.data.pairs.pair import Pair


@dataclass(frozen=True)
class PairBatch:
    """One micro-batch of one rank. It stays outside the module, which gets `inputs()`."""

    source_BS: LongTensor
    """clean ids, each source with its end; padding positions hold 0"""
    source_lengths_B: LongTensor
    """padding is where position >= length; filler rows have length 0"""
    ids_BT: LongTensor
    """the decoder's input: start, then the target without what comes last; padding positions hold 0"""
    lengths_B: LongTensor
    """the same of the targets"""
    labels_BT: LongTensor
    """the next token of the target, its end included; -100 where nothing is scored"""
    rows_B: LongTensor
    """number of the pair in the global batch; filler rows: -1"""
    words: int
    """words of the targets, WikiText's way: each end of a line is one"""

    def inputs(self) -> dict[str, Tensor]:
        """What models take by keyword."""
        return {"source_BS": self.source_BS, "source_lengths_B": self.source_lengths_B,
                "ids_BT": self.ids_BT, "lengths_B": self.lengths_B}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        return replace(self, **{name: tensor.to(device, non_blocking=non_blocking)
                                for name, tensor in self._tensors().items()})

    def pin(self) -> PairBatch:
        """The same in pinned memory, from where copies to a GPU run beside its work."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def positions(self) -> int:
        """Of sources and targets, padding included."""
        return self.source_BS.numel() + self.ids_BT.numel()

    def filled(self) -> int:
        """Those that hold a token."""
        return int(self.source_lengths_B.sum()) + int(self.lengths_B.sum())

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "words"}


def collate_pairs(pairs: Sequence[Pair], rows: Sequence[int], start: int) -> PairBatch:
    """A micro-batch of these pairs, numbered `rows` in their global batch, as long as its longest source and target.

    Without a pair it is one filler row, which scores nothing.
    """
    count = max(1, len(pairs))
    source_length = max((len(pair.source) for pair in pairs), default=1)
    length = max((len(pair.targets) for pair in pairs), default=1)
    source_BS, source_lengths_B = np.zeros((count, source_length), np.int64), np.zeros(count, np.int64)
    ids_BT, labels_BT = np.zeros((count, length), np.int64), np.full((count, length), UNSCORED, np.int64)
    lengths_B, rows_B = np.zeros(count, np.int64), np.full(count, FILLER_ROW, np.int64)
    for b, (row, pair) in enumerate(zip(rows, pairs)):
        rows_B[b] = row
        source_lengths_B[b], lengths_B[b] = len(pair.source), len(pair.targets)
        source_BS[b, :len(pair.source)] = pair.source
        ids_BT[b, 0], ids_BT[b, 1:len(pair.targets)] = start, pair.targets[:-1]
        labels_BT[b, :len(pair.targets)] = pair.targets
    arrays = {"source_BS": source_BS, "source_lengths_B": source_lengths_B, "ids_BT": ids_BT, "lengths_B": lengths_B,
              "labels_BT": labels_BT, "rows_B": rows_B}
    return PairBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()},
                     words=sum(pair.words for pair in pairs))


def filler_pairs() -> PairBatch:
    """A micro-batch of one row that scores nothing: for a rank that has run out of rows."""
    return collate_pairs([], [], start=0)


def hash_of_pairs(batch: PairBatch) -> int:
    """Sum of the hashes of the batch's real rows, without their padding (an unbounded integer: wrap it last)."""
    source_BS, ids_BT, labels_BT = batch.source_BS.numpy(), batch.ids_BT.numpy(), batch.labels_BT.numpy()
    lengths = zip(batch.rows_B.tolist(), batch.source_lengths_B.tolist(), batch.lengths_B.tolist())
    return sum(row_hash(row, source_BS[b, :source], ids_BT[b, :length], labels_BT[b, :length])
               for b, (row, source, length) in enumerate(lengths) if row != FILLER_ROW)

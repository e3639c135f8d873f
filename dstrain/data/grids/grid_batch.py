"""From rows of puzzles to a GridBatch: the only place where a puzzle's labels are made, and its padding.

Tensor names end in their shape: B rows, S tokens of a query, T tokens of what is written, G grids that are shown (each
demonstration's input, then its output), X tokens of them: G grids, each of as many as the longest has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import LongTensor, Tensor

from dstrain.data.collate import FILLER_ROW, UNSCORED
from dstrain.data.grids.row import CHAMPION, DECODER, Row
from dstrain.data.grids.tokens import START
from dstrain.data.hashing import row_hash


@dataclass(frozen=True)
class GridBatch:
    """One micro-batch of one rank. It stays outside the module, which gets `inputs()`."""

    ids_BT: LongTensor
    """clean ids: of a decoder all of the row, else a start and the answer; without what comes last; padding holds 0"""
    lengths_B: LongTensor
    """padding is where position >= length; filler rows have length 0"""
    labels_BT: LongTensor
    """the next token; -100 where nothing is scored: of a decoder all but the outputs behind the first"""
    rows_B: LongTensor
    """number of the row in the global batch; filler rows: -1"""
    source_BS: LongTensor | None = None
    """the query, with its end; None where it stands in `ids_BT`"""
    source_lengths_B: LongTensor | None = None
    context_BX: LongTensor | None = None
    """the grids that are shown, each with its end and its padding; None where they are not, or stand in `ids_BT`"""
    context_lengths_BG: LongTensor | None = None
    """0: a row has no such grid"""
    words: int = 0

    def inputs(self) -> dict[str, Tensor]:
        """What models take by keyword."""
        if self.source_BS is None:
            slots_T = torch.arange(self.ids_BT.shape[1], device=self.ids_BT.device)
            real_BT = slots_T < self.lengths_B[:, None]
            return {"ids_BT": self.ids_BT, "segments_BT": real_BT.long() - 1, "positions_BT": slots_T * real_BT}
        found = {"source_BS": self.source_BS, "source_lengths_B": self.source_lengths_B, "ids_BT": self.ids_BT,
                 "lengths_B": self.lengths_B}
        if self.context_BX is None:
            return found
        return {"context_BX": self.context_BX, "context_lengths_BG": self.context_lengths_BG, **found}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GridBatch:
        return replace(self, **{name: tensor.to(device, non_blocking=non_blocking)
                                for name, tensor in self.tensors().items()})

    def pin(self) -> GridBatch:
        """The same in pinned memory, from where copies to a GPU run beside its work."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """By name those that there are."""
        return {field.name: value for field in fields(self)
                if isinstance(value := getattr(self, field.name), Tensor)}

    def positions(self) -> int:
        """Padding included."""
        return sum(tensor.numel() for tensor in (self.ids_BT, self.source_BS, self.context_BX) if tensor is not None)

    def scored(self) -> int:
        """Targets."""
        return int((self.labels_BT != UNSCORED).sum())

    def filled(self) -> int:
        """Those that hold a token."""
        return sum(int(lengths.sum()) for lengths in (self.lengths_B, self.source_lengths_B, self.context_lengths_BG)
                   if lengths is not None)


def collate_grids(rows: Sequence[Row], numbers: Sequence[int], kind: str, scores_shown: bool = True) -> GridBatch:
    """A micro-batch of these rows, numbered so in their global batch; without a row one filler, which scores nothing.

    `scores_shown`: a decoder learns the outputs of all demonstrations but the first, too. Without an answer it is a
    prompt: `ids_BT` is what comes before it.
    """
    written = [_written(row, kind, scores_shown) for row in rows] or [(np.empty(0, np.int32),) * 2]
    ids_BT, lengths_B = _padded([ids for ids, _ in written], 0)
    labels_BT, _ = _padded([labels for _, labels in written], UNSCORED)
    found = {"ids_BT": ids_BT, "lengths_B": lengths_B, "labels_BT": labels_BT,
             "rows_B": np.array([*numbers] or [FILLER_ROW], np.int64)}
    if kind != DECODER:
        found["source_BS"], found["source_lengths_B"] = _padded([row.query for row in rows] or [ids_BT[0, :0]], 0)
    if kind == CHAMPION:
        found["context_BX"], found["context_lengths_BG"] = _context(rows)
    return GridBatch(**{name: torch.from_numpy(array) for name, array in found.items()})


def filler_grids(kind: str) -> GridBatch:
    """A micro-batch of one row that scores nothing: for a rank that has run out of rows."""
    return collate_grids([], [], kind)


def hash_of_grids(batch: GridBatch) -> int:
    """Sum of the hashes of the batch's real rows, without their padding (an unbounded integer: wrap it last)."""
    arrays = {name: tensor.numpy() for name, tensor in batch.tensors().items()}
    return sum(row_hash(row, *_contents(arrays, b)) for b, row in enumerate(batch.rows_B.tolist()) if row != FILLER_ROW)


def _contents(arrays: dict[str, np.ndarray], b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, labels, all that stands beside them) of a row."""
    length = arrays["lengths_B"][b]
    beside = [np.empty(0, np.int64)]
    if "source_BS" in arrays:
        beside.append(arrays["source_BS"][b, :arrays["source_lengths_B"][b]])
    if "context_BX" in arrays:
        lengths_G = arrays["context_lengths_BG"][b]
        beside += [grid[:size] for grid, size in zip(arrays["context_BX"][b].reshape(len(lengths_G), -1), lengths_G)]
    return arrays["ids_BT"][b, :length], arrays["labels_BT"][b, :length], np.concatenate(beside)


def _written(row: Row, kind: str, scores_shown: bool) -> tuple[np.ndarray, np.ndarray]:
    """What comes in where predictions come out, and what is to be predicted there."""
    before = row.sequence() if kind == DECODER else np.array([START], np.int32)
    if not len(row.answer):
        return before, np.full(len(before), UNSCORED, np.int64)
    ids = np.concatenate([before, row.answer])
    labels = np.full(len(ids) - 1, UNSCORED, np.int64)
    labels[len(before) - 1:] = row.answer
    if kind == DECODER and scores_shown:
        place = 0
        for number, (wanted, answer) in enumerate(row.shown):
            first = place + len(wanted) + 1  # behind START, the input without its end, and SEPARATOR
            place = first + len(answer)
            if number:
                labels[first - 1:place - 1] = answer
    return ids[:-1], labels


def _context(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    grids = [[grid for pair in row.shown for grid in pair] for row in rows] or [[]]
    most = max(2, *map(len, grids))
    longest = max((len(grid) for of_row in grids for grid in of_row), default=1)
    context_BGL = np.zeros((len(grids), most, longest), np.int64)
    lengths_BG = np.zeros((len(grids), most), np.int64)
    for b, of_row in enumerate(grids):
        for g, grid in enumerate(of_row):
            context_BGL[b, g, :len(grid)], lengths_BG[b, g] = grid, len(grid)
    return context_BGL.reshape(len(grids), -1), lengths_BG


def _padded(rows: Sequence[np.ndarray], padding: int) -> tuple[np.ndarray, np.ndarray]:
    lengths_B = np.array([len(row) for row in rows], np.int64)
    padded_BT = np.full((len(rows), max(1, lengths_B.max())), padding, np.int64)
    for b, row in enumerate(rows):
        padded_BT[b, :len(row)] = row
    return padded_BT, lengths_B

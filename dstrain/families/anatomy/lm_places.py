"""Where the slots of `lm` rows belong: inputs, segments and positions once more, from the documents themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dstrain.data.collate import Batch

_GLANCE = 8


class Slots(NamedTuple):
    """One row of a batch, padding included."""

    number: int
    length: int
    ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    positions: np.ndarray


def slots_of(batch: Batch) -> Iterable[Slots]:
    tensors = (batch.ids_BT, batch.labels_BT, batch.segments_BT, batch.positions_BT)
    for b, (number, length) in enumerate(zip(batch.rows_B.tolist(), batch.lengths_B.tolist())):
        if number >= 0:
            yield Slots(number, length, *(tensor[b].numpy() for tensor in tensors))


def misplaced(rows: list[Slots], documents: list[np.ndarray], eot: int) -> int:
    """Of one lane's rows, in their order: slots whose input, segment or position is not what the documents say.

    The labels of a lane, one row behind the other, are whole documents: so it is known where each begins. A document
    begins with end-of-text, and any other input is the label before it, also where a row begins in its midst.
    """
    if not rows:
        return 0
    stream = np.concatenate([row.labels[:row.length] for row in rows])
    before = np.concatenate([[eot], stream[:-1]])
    begins, known = _begins(stream, documents)
    wrong, start = 0, 0
    for row in rows:
        own = slice(start, start + row.length)
        inputs = np.where(begins[own], eot, before[own])
        slots = np.arange(row.length)
        inner = begins[own] & (slots > 0)
        positions = slots - np.maximum.accumulate(np.where(inner, slots, 0))
        right = ((row.ids[:row.length] == inputs) & (row.segments[:row.length] == np.cumsum(inner))
                 & (row.positions[:row.length] == positions) & (start + slots < known))
        wrong += int((~right).sum()) + int((row.segments[row.length:] != -1).sum())
        start += row.length
    return wrong


def _begins(stream: np.ndarray, documents: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """(at which places of the stream a document begins, up to where it is made of documents). The last may be cut."""
    longest_first = sorted((document for document in documents if len(document)), key=len, reverse=True)
    begins, place = np.zeros(len(stream), dtype=bool), 0
    while place < len(stream):
        rest = stream[place:]
        found = next((document for document in longest_first if _stands(document, rest)), None)
        if found is None:
            break
        begins[place] = True
        place += len(found)
    return begins, place


def _stands(document: np.ndarray, rest: np.ndarray) -> bool:
    size = min(len(document), len(rest))
    glance = min(size, _GLANCE)
    return np.array_equal(document[:glance], rest[:glance]) and np.array_equal(document[:size], rest[:size])

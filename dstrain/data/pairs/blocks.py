"""A source's pairs in large blocks, each with an order of its own, epoch after epoch.

A block is read in the order of the files and holds many windows of batches; every pair comes once an epoch. A source
that fits into one block is parsed once: its next epochs are the same block in other orders.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dstrain.config.errors import UserError
from dstrain.data.hashing import BLOCKS, order_of
from dstrain.data.one_pass import Place
from dstrain.data.pairs.pair import Pair
from dstrain.data.scan import Document, Reader, nothing_in

BLOCK_PAIRS = 262_144
LANE = 0
"""the only one that a reader of pairs has: every rank reads all of them, and the batches are dealt"""


@dataclass(frozen=True)
class BlockStart:
    """Where a block begins; plain numbers."""

    epoch: int = 0
    file: int = 0
    """place of the file in the epoch's order of files"""
    document: int = 0
    seen: int = 0
    """pairs before it in its epoch, malformed ones too"""
    bad: int = 0
    """malformed ones among them"""

    @property
    def is_first(self) -> bool:
        return (self.file, self.document) == (0, 0)


class Block:
    """Pairs in their shuffled order, in a few arrays: two for each pair would take four times the memory."""

    def __init__(self, start: BlockStart, behind: BlockStart, held: _Held, source: int, seed: int):
        self.start, self.behind = start, behind
        self._held = held
        self._order = order_of(held.keys, BLOCKS, seed, source, start.epoch, start.file, start.document)

    def __len__(self) -> int:
        return len(self._order)

    def pair(self, index: int) -> Pair:
        return self._held.pair(self._order[index])


def blocks_from(start: BlockStart, reader: Reader, seed: int) -> Iterator[Block]:
    """For ever. An error where a whole epoch has no pair to train on."""
    reader.start(LANE, start.epoch, Place(start.file, start.document))
    reader.malformed.continue_from(LANE, start.seen, start.bad)
    number, useful, whole_epoch = reader.corpus.number, 0, start.is_first
    while True:
        held, behind = _read(reader, start)
        useful += held.useful
        if behind.epoch > start.epoch:
            if whole_epoch and not useful:
                raise UserError(_nothing_useful(reader, held))
            useful, whole_epoch = 0, True
        if len(held.keys):
            yield Block(start, behind, held, number, seed)
        while start.is_first and behind.epoch > start.epoch:  # the whole source
            start, behind = behind, replace(behind, epoch=behind.epoch + 1)
            yield Block(start, behind, held, number, seed)
        start = behind


def _read(reader: Reader, start: BlockStart) -> tuple[_Held, BlockStart]:
    """The block that begins there, empty where its epoch ends there, and where the next one begins."""
    held, seen, bad = _Held(), start.seen, start.bad
    while len(held.keys) < BLOCK_PAIRS:
        document = reader.pull(LANE)
        if document is None:
            epoch, _ = reader.cursor(LANE)
            return held.whole(), BlockStart(epoch)
        seen, bad = seen + 1, bad + document.malformed
        held.add(document)
    epoch, place = reader.cursor(LANE)
    return held.whole(), BlockStart(epoch, place.file, place.document, seen, bad)


class _Held:
    """What blocks of the same pairs share."""

    def __init__(self) -> None:
        self.keys, self._tokens = array("q"), array("i")
        self._starts, self._sources, self._targets = array("q"), array("i"), array("i")
        self._words, self._over_long = array("q"), bytearray()
        self.useful = 0
        """pairs to train on: the others were too long, and are kept to be counted"""

    def add(self, document: Document) -> None:
        pair: Pair = document.found
        if not len(pair.targets) and not pair.over_long:
            return
        self.keys.append(document.file << 40 | document.place.document)
        self._starts.append(len(self._tokens))
        self._sources.append(len(pair.source))
        self._targets.append(len(pair.targets))
        self._words.append(pair.words)
        self._over_long.append(pair.over_long)
        self._tokens.frombytes(pair.source.tobytes())
        self._tokens.frombytes(pair.targets.tobytes())
        self.useful += bool(len(pair.targets))

    def whole(self) -> _Held:
        """Nothing is added any more."""
        self.keys = np.frombuffer(self.keys, np.int64) if self.keys else np.empty(0, np.int64)
        self._tokens = np.frombuffer(self._tokens, np.int32) if self._tokens else np.empty(0, np.int32)
        return self

    def pair(self, place: int) -> Pair:
        start, middle = self._starts[place], self._starts[place] + self._sources[place]
        return Pair(self._tokens[start:middle], self._tokens[middle:middle + self._targets[place]],
                    self._words[place], bool(self._over_long[place]))


def _nothing_useful(reader: Reader, held: _Held) -> str:
    if not len(held.keys):
        return nothing_in(reader.corpus)
    return (f"{reader.corpus.name}: every pair has a side of more than batch.length tokens, so none is left to train "
            f"on; raise batch.length, or set batch.over_long=cut")

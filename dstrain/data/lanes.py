"""Lanes: deterministic endless streams of rows. Where one stands is a few integers that fit in JSON.

A lane takes the documents of each source in blocks; a block has an order of its own. Every document of the lane's
share comes once an epoch. Sources are mixed so that each gets its share of the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dstrain.config.errors import UserError
from dstrain.data.collate import Part, Row, part_of
from dstrain.data.hashing import BLOCKS, MIXING, mix, permutation
from dstrain.data.scan import Document, Place, Reader, nothing_in

MOST_DOCUMENTS_IN_BLOCK = 1024


class Lane:
    """One lane over all sources: hands out rows."""

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float]):
        self._streams = streams
        self._shares = [weight / sum(weights) for weight in weights]
        # This width makes each of two sources, with documents of equal lengths, the first in its share of the lanes.
        self._leads = [stream.phase() / max(1 - share, 0.5) for share, stream in zip(self._shares, streams)]

    def next_row(self, number: int, length: int) -> Row:
        """A row full of documents; the last goes on in the lane's next row where it does not fit."""
        parts: list[Part] = []
        room = length
        while room:
            part = self._stream().take(room)
            parts.append(part)
            room -= len(part.targets)
        return Row(number, parts)

    def states(self) -> list[dict[str, int]]:
        return [stream.state() for stream in self._streams]

    def given(self) -> list[int]:
        """Targets given so far, by source."""
        return [stream.given for stream in self._streams]

    def _stream(self) -> Stream:
        """The one whose document is under way, else the one whose next document is due first.

        A document of n targets is due when its source, on time, would have given all before it and `lead` x n more.
        The leads differ from lane to lane, so that about as many lanes start with a source as its share says, and
        sources of short and of long documents do not swing together in all lanes. They are bounded, so each lane stays
        within a few documents of its shares. A function of the lane's number and state: a resumed lane chooses as
        if it had never stopped.
        """
        if len(self._streams) == 1:
            return self._streams[0]
        for stream in self._streams:
            if stream.token:
                return stream
        due = [(stream.given + lead * stream.targets_of_next()) / share
               for share, lead, stream in zip(self._shares, self._leads, self._streams)]
        return self._streams[due.index(min(due))]


@dataclass
class Stream:
    """One lane's documents of one source, endlessly. The integers are its state; the block is read from them."""

    lane: int
    reader: Reader
    seed: int
    block_tokens: int
    epoch: int = 0
    file: int = 0  # the block starts at this file of the epoch's order,
    document: int = 0  # at this document
    index: int = 0  # documents of the block, in its shuffled order, that are done
    token: int = 0  # targets of the document under way that are given
    given: int = 0  # targets given in all
    seen: int = 0  # documents before the block in its epoch
    bad: int = 0  # malformed ones among them

    STATE = ("epoch", "file", "document", "index", "token", "given", "seen", "bad")

    def __post_init__(self) -> None:
        self._block: list[Document] = []
        self._seen_behind_block = self._bad_behind_block = 0
        self.reader.start(self.lane, self.epoch, Place(self.file, self.document))
        self.reader.malformed.continue_from(self.lane, self.seen, self.bad)

    def state(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.STATE}

    def phase(self) -> float:
        """From 0 to 1: of all lanes evenly, in another order for each source, so that lanes do not move in step."""
        lanes, number = self.reader.lane_count, self.reader.corpus.number
        within = mix(MIXING, self.seed, number, self.lane) / 2**64
        return (_order_of_lanes(lanes, self.seed, number)[self.lane] + within) / lanes

    def targets_of_next(self) -> int:
        """How many targets the next document has."""
        if not self._block:
            self._load_block()
        return len(self._block[self.index].targets)

    def take(self, room: int) -> Part:
        """The next targets of the document under way, `room` of them at most."""
        if not self._block:
            self._load_block()
        document = self._block[self.index]
        start, targets = self.token, document.targets
        part = part_of(targets, start, room, document.words)
        self.token += len(part.targets)
        self.given += len(part.targets)
        if self.token == len(targets):
            self._finish_document()
        return part

    def _finish_document(self) -> None:
        self.index, self.token = self.index + 1, 0
        if self.index == len(self._block):
            self.index, self._block = 0, []
            self._move_behind_block()

    def _move_behind_block(self) -> None:
        epoch, (self.file, self.document) = self.reader.cursor(self.lane)
        within = epoch == self.epoch
        self.epoch = epoch
        self.seen, self.bad = (self._seen_behind_block, self._bad_behind_block) if within else (0, 0)

    def _load_block(self) -> None:
        """Reads the block that starts here; at the end of an epoch, the first of the next."""
        block = self._read_block()
        if not block:
            self._move_behind_block()
            block = self._read_block()
        if not block:  # a whole epoch without a document
            raise UserError(self._too_small())
        key = BLOCKS, self.seed, self.reader.corpus.number, self.lane, self.epoch, self.file, self.document
        self._block = [block[place] for place in permutation(len(block), *key)]
        if self.index >= len(block) or self.token >= len(self._block[self.index].targets):
            raise UserError(f"{self.reader.corpus.name}: the checkpoint stands at a document that is not there: the "
                            f"files have changed since. Restore them, or start the run anew with --fresh")

    def _read_block(self) -> list[Document]:
        block: list[Document] = []
        tokens = 0
        self._seen_behind_block, self._bad_behind_block = self.seen, self.bad
        while tokens < self.block_tokens and len(block) < MOST_DOCUMENTS_IN_BLOCK:
            document = self.reader.pull(self.lane)
            if document is None:
                break
            self._seen_behind_block += 1
            self._bad_behind_block += document.malformed
            if len(document.targets):
                block.append(document)
                tokens += len(document.targets)
        return block

    def _too_small(self) -> str:
        corpus, documents, lanes = self.reader.corpus, self.reader.documents_in_epoch, self.reader.lane_count
        if not documents:
            return nothing_in(corpus)
        return (f"{corpus.name}: {documents} document(s) are too few for data.lanes {lanes}: lane {self.lane} gets "
                f"none with text. Set data.lanes to a smaller divisor of batch.rows (for example data.lanes=1), make "
                f"documents smaller ({corpus.place}.documents=lines), or give more text")


@lru_cache(maxsize=64)
def _order_of_lanes(lanes: int, seed: int, source: int) -> list[int]:
    return permutation(lanes, MIXING, seed, source)

"""One reader per rank and source: lanes pull their documents from it, the files are read once for all of them.

Documents of other ranks' lanes are passed over without being parsed or tokenized. What the scan meets for a lane
that has not asked yet waits in that lane's queue, unparsed: a lane that runs ahead costs the others no work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

import numpy as np

from dstrain.config.errors import UserError
from dstrain.data.hashing import FILES, permutation
from dstrain.data.malformed import MalformedLines
from dstrain.data.shares import lane_of
from dstrain.data.sources import Corpus, Malformed, Text
from dstrain.data.tokenizer import Tokenizer

# A lane may run an epoch ahead of another one (its documents were short). Scans of more epochs than this are not
# kept open: the slower lane's documents are read again when it comes to them.
_MOST_SCANS = 4
_LOOK_AT_STOP_EVERY = 256


class Stopped(Exception):
    """The feed was closed while this thread was reading."""


class Place(NamedTuple):
    """A document's place within an epoch."""

    file: int
    """place of the file in the epoch's order of files"""
    document: int


@dataclass(frozen=True)
class Document:
    place: Place
    targets: np.ndarray
    """int32: the tokens, and end-of-text where the document ends here; empty when there is nothing to train on"""
    words: int
    malformed: bool = False


@dataclass(frozen=True)
class _Raw:
    """A document as it stands in its file: what waits for its lane."""

    lane: int
    place: Place
    file: int
    content: bytes | Text


class Reader:
    """One source for some lanes (a rank's), epoch after epoch, in an order that the seed decides."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, seed: int, lane_count: int, malformed: MalformedLines,
                 stop: Event):
        self.corpus, self.lane_count, self.malformed, self.stop = corpus, lane_count, malformed, stop
        self._tokenizer, self._seed = tokenizer, seed
        self._cursors: dict[int, tuple[int, Place]] = {}  # lane -> epoch, first document not pulled yet
        self._scans: dict[int, _Scan] = {}  # by epoch, the most recently used one last
        self.documents_in_epoch = 0
        """of all lanes, this rank's and others'; known when the first whole epoch has been read"""

    def start(self, lane: int, epoch: int, place: Place) -> None:
        """Where the lane will pull first; said for all lanes before the first pull."""
        self._cursors[lane] = epoch, place

    def cursor(self, lane: int) -> tuple[int, Place]:
        """Epoch and place from which the lane would pull next."""
        return self._cursors[lane]

    def pull(self, lane: int) -> Document | None:
        """The lane's next document; None at its epoch's end, and then its cursor stands at the next epoch."""
        epoch, _ = self._cursors[lane]
        scan = self._scan_of(epoch)
        raw = scan.next(lane)
        if raw is None:
            self.malformed.end_of_epoch(lane)
            self._cursors[lane] = epoch + 1, Place(0, 0)
            if scan.passed_all is not None:
                self.documents_in_epoch = scan.passed_all
            if not scan.queues:
                self._scans.pop(epoch).close()
            return None
        self._cursors[lane] = epoch, Place(raw.place.file, raw.place.document + 1)
        return _document(self.corpus, self._tokenizer, self.malformed, raw)

    def close(self) -> None:
        for scan in self._scans.values():
            scan.close()

    def _scan_of(self, epoch: int) -> _Scan:
        scan = self._scans.pop(epoch, None) or self._open(epoch)
        self._scans[epoch] = scan
        if len(self._scans) > _MOST_SCANS:
            self._scans.pop(next(iter(self._scans))).close()
        return scan

    def _open(self, epoch: int) -> _Scan:
        """For the lanes in this epoch, and for those that will come to it."""
        order = permutation(len(self.corpus.files), FILES, self._seed, self.corpus.number, epoch)
        firsts = {lane: place if at == epoch else Place(0, 0)
                  for lane, (at, place) in self._cursors.items() if at <= epoch}
        return _Scan(_read(self.corpus, order, firsts, self.lane_count, self.stop), firsts)


class _Scan:
    """One pass over one epoch of a source."""

    def __init__(self, documents: Generator[_Raw, None, int | None], lanes: Iterable[int]):
        self.queues: dict[int, deque[_Raw]] = {lane: deque() for lane in lanes}
        self.passed_all: int | None = None
        """documents of all lanes, when they have all been passed and the scan began at the first file"""
        self._documents: Generator[_Raw, None, int | None] | None = documents

    def next(self, lane: int) -> _Raw | None:
        queue = self.queues[lane]
        while not queue and self._documents is not None:
            self._advance()
        if queue:
            return queue.popleft()
        del self.queues[lane]  # past this epoch: a lane never comes back
        return None

    def close(self) -> None:
        if self._documents is not None:
            self._documents.close()

    def _advance(self) -> None:
        try:
            raw = next(self._documents)
        except StopIteration as end:
            self._documents, self.passed_all = None, end.value
            return
        if raw.lane in self.queues:
            self.queues[raw.lane].append(raw)


def read_once(corpus: Corpus, tokenizer: Tokenizer, lanes: Sequence[int], lane_count: int, malformed: MalformedLines
              ) -> Iterator[tuple[int, Document]]:
    """(lane, document) of these lanes in the files' own order, once: for validation."""
    scan = _read(corpus, range(len(corpus.files)), {lane: Place(0, 0) for lane in lanes}, lane_count, Event())
    while True:
        try:
            raw = next(scan)
        except StopIteration as end:
            passed = end.value
            break
        yield raw.lane, _document(corpus, tokenizer, malformed, raw)
    for lane in lanes:
        malformed.end_of_epoch(lane)
    if not passed:
        raise UserError(nothing_in(corpus))


def nothing_in(corpus: Corpus) -> str:
    return f"{corpus.name}: holds no document in {len(corpus.files)} file(s); give files with text"


def _read(corpus: Corpus, order: Sequence[int], firsts: dict[int, Place], lane_count: int,
          stop: Event) -> Generator[_Raw, None, int | None]:
    """In the order of the files, for the lanes in `firsts`, each from its first place on.

    Returns the number of documents of all lanes, or None when it began behind the first file.
    """
    first_file = min(place.file for place in firsts.values())
    passed = 0
    for position in range(first_file, len(order)):
        file = order[position]
        for number, content in corpus.documents(file):
            passed += 1
            if passed % _LOOK_AT_STOP_EVERY == 0 and stop.is_set():
                raise Stopped
            lane, place = lane_of(corpus.number, file, number, lane_count), Place(position, number)
            if lane in firsts and place >= firsts[lane]:
                yield _Raw(lane, place, file, content)
    return passed if first_file == 0 else None


def _document(corpus: Corpus, tokenizer: Tokenizer, malformed: MalformedLines, raw: _Raw) -> Document:
    """Parsed and tokenized, and counted, when its lane comes to it: once an epoch, however often it was read."""
    malformed.see(raw.lane)
    try:
        text = corpus.text_of(raw.content)
        return Document(raw.place, _targets(tokenizer, text.text, text.ends), text.words())
    except Malformed as error:
        malformed.skip(raw.lane, raw.file, raw.place.document, str(error))
        return Document(raw.place, _NOTHING, 0, malformed=True)


def _targets(tokenizer: Tokenizer, text: str, ends: bool) -> np.ndarray:
    try:
        tokens = tokenizer.encode(text)
    except ValueError as error:  # tiktoken gives up on a million blanks in a row
        raise Malformed(f"cannot be tokenized: {error}") from None
    return np.append(tokens, np.int32(tokenizer.eot)) if ends and len(tokens) else tokens


_NOTHING = np.empty(0, dtype=np.int32)

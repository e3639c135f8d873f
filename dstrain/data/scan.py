"""One reader per rank and source: lanes pull their documents from it, the files are read once for all of them.

Documents of other ranks' lanes are passed over without being parsed or tokenized. What the scan meets for a lane
that has not asked yet waits in that lane's queue, unparsed: a lane that runs ahead costs the others no work. When a
lane pulls, the workers parse what waits for it behind.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event

import numpy as np

from dstrain.config.errors import UserError
from dstrain.data.hashing import FILES, permutation
from dstrain.data.reading.malformed import MalformedLines, Warn
from dstrain.data.one_pass import AnyCorpus, Place, Raw, Stopped, documents_for
from dstrain.data.parsed import Found
from dstrain.data.workers import Ahead, Parse, Workers, in_order

# A lane may run an epoch ahead of another one (its documents were short). Scans of more epochs than this are not
# kept open: the slower lane's documents are read again when it comes to them.
_MOST_SCANS = 4


@dataclass(frozen=True)
class Document:
    """A document, or a pair of sentences, and where it stands."""

    place: Place
    file: int
    found: Found

    @property
    def targets(self) -> np.ndarray:
        """int32: the tokens, and end-of-text where the document ends here; empty when there is nothing to train on"""
        return self.found.targets

    @property
    def words(self) -> int:
        return self.found.words

    @property
    def malformed(self) -> bool:
        return self.found.malformed is not None


class Reader:
    """One source for some lanes (a rank's), epoch after epoch, in an order that the seed decides."""

    def __init__(self, corpus: AnyCorpus, parse: Parse, seed: int, lane_count: int, malformed: MalformedLines,
                 stop: Event, workers: Workers, say: Warn | None = None):
        self.corpus, self.lane_count, self.malformed, self.stop = corpus, lane_count, malformed, stop
        self._parse, self._workers, self._seed = parse, workers, seed
        self._say = say  # of a long skip at the start
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
        if self.stop.is_set():
            raise Stopped
        epoch, _ = self._cursors[lane]
        scan = self._scan_of(epoch)
        queue = scan.queue_of(lane)
        if queue is None:
            self.malformed.end_of_epoch(lane)
            self._cursors[lane] = epoch + 1, Place(0, 0)
            if scan.passed_all is not None:
                self.documents_in_epoch = scan.passed_all
            if not scan.queues:
                self._scans.pop(epoch).close()
            return None
        raw, found = queue.take()
        self._cursors[lane] = epoch, Place(raw.place.file, raw.place.document + 1)
        return _judged(self.malformed, raw, found)

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
        order = permutation(self.corpus.file_count, FILES, self._seed, self.corpus.number, epoch)
        firsts = {lane: place if at == epoch else Place(0, 0)
                  for lane, (at, place) in self._cursors.items() if at <= epoch}
        say, self._say = self._say, None
        documents = documents_for(self.corpus, order, firsts, self.lane_count, self.stop, say)
        return _Scan(documents, {lane: Ahead(self._parse, self._workers, self._workers.count) for lane in firsts})


class _Scan:
    """One pass over one epoch of a source."""

    def __init__(self, documents: Generator[Raw, None, int | None], queues: dict[int, Ahead[Raw]]):
        self.queues = queues
        self.passed_all: int | None = None
        """documents of all lanes, when they have all been passed and the scan began at the first file"""
        self._documents: Generator[Raw, None, int | None] | None = documents
        self._failure: Exception | None = None

    def queue_of(self, lane: int) -> Ahead[Raw] | None:
        """With the lane's next document in front; None where there is none, and then the lane is done with this."""
        queue = self.queues[lane]
        while self._documents is not None and (not queue or queue.hungry):
            self._advance()
        if queue:
            return queue
        if self._failure is not None:
            raise self._failure
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
        except Stopped:
            raise
        except Exception as error:  # of what stands behind all that was read: its turn comes when that is taken
            self._documents, self._failure = None, error
            return
        if raw.lane in self.queues:
            self.queues[raw.lane].put(raw)


def read_once(corpus: AnyCorpus, parse: Parse, lanes: Sequence[int], lane_count: int, malformed: MalformedLines,
              workers: Workers) -> Iterator[tuple[int, Document]]:
    """(lane, document) of these lanes in the files' own order, once: for validation."""
    passed: int | None = 0

    def wanted() -> Iterator[Raw]:
        nonlocal passed
        firsts = {lane: Place(0, 0) for lane in lanes}
        passed = yield from documents_for(corpus, range(corpus.file_count), firsts, lane_count, Event())

    for raw, found in in_order(wanted(), parse, workers):
        yield raw.lane, _judged(malformed, raw, found)
    for lane in lanes:
        malformed.end_of_epoch(lane)
    if not passed:
        raise UserError(nothing_in(corpus))


def nothing_in(corpus: AnyCorpus) -> str:
    return f"{corpus.name}: holds no document in {corpus.file_count} file(s); give files with text"


def _judged(malformed: MalformedLines, raw: Raw, found: Found) -> Document:
    """Counted when its lane comes to it: once an epoch, however often it was read."""
    malformed.see(raw.lane)
    if found.malformed is not None:
        malformed.skip(raw.lane, raw.file, raw.place.document, found.malformed)
    return Document(raw.place, raw.file, found)

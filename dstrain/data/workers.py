"""Threads that parse documents ahead of whoever takes them: in their order, within bounds, errors in their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Generic, Protocol, TypeVar

from dstrain.config.schema import Recipe
from dstrain.data.parsed import Content, Found, size_of

CHUNK_BYTES = 16_384  # some milliseconds of work: what handing it over costs does not show
CHUNK_DOCUMENTS = 256


class _Document(Protocol):
    content: Content


Item = TypeVar("Item", bound=_Document)
Parse = Callable[[Content], Found]


class Workers:
    """`count` threads beside the one that takes the documents. With a count of 1 there is none: that one parses."""

    def __init__(self, count: int):
        self.count = count
        self._stop = Event()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="tokenizing") if count > 1 else None

    def start(self, parse: Parse, chunk: list[Item]) -> Future[list[Found | Exception]]:
        return self._pool.submit(_parse_all, parse, chunk, self._stop)

    def close(self) -> None:
        """What has not begun never will; a thread in the middle of a document ends behind it, waited for by nobody."""
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def workers_for(recipe: Recipe) -> Workers:
    """Shards hold tokens: nothing is left to do ahead."""
    return Workers(recipe.data.workers if recipe.data.prepared is None else 1)


class Ahead(Generic[Item]):
    """Documents in a row: put at its end, taken from its front, parsed between by the workers, some chunks ahead."""

    def __init__(self, parse: Parse, workers: Workers, chunks: int):
        self._parse, self._workers = parse, workers
        self._chunks, self._chunk_documents = (chunks, CHUNK_DOCUMENTS) if workers.count > 1 else (0, 1)
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._running: deque[tuple[list[Item], Future[list[Found | Exception]]]] = deque()
        self._done: deque[tuple[Item, Found | Exception]] = deque()

    def __bool__(self) -> bool:
        return bool(self._done or self._running or self._waiting)

    @property
    def full(self) -> bool:
        """Whether to take before putting more."""
        return bool(self._done) or (len(self._running) >= self._chunks and bool(self._running or self._waiting))

    @property
    def hungry(self) -> bool:
        """Whether the workers could do with more."""
        waiting = max(self._waiting_bytes / CHUNK_BYTES, len(self._waiting) / CHUNK_DOCUMENTS)
        return len(self._running) + waiting < self._chunks

    def put(self, item: Item) -> None:
        self._waiting.append(item)
        self._waiting_bytes += size_of(item.content)

    def start(self) -> None:
        """Hands whole chunks of what waits to the workers, as many as may be under way."""
        while len(self._running) < self._chunks and (
                self._waiting_bytes >= CHUNK_BYTES or len(self._waiting) >= CHUNK_DOCUMENTS):
            chunk = self._cut()
            self._running.append((chunk, self._workers.start(self._parse, chunk)))

    def take(self) -> tuple[Item, Found]:
        """The first document. Its own error is raised here, and no sooner."""
        if not self._done:
            self._done.extend(self._first_chunk())
        item, parsed = self._done.popleft()
        if isinstance(parsed, Exception):
            raise parsed
        return item, parsed

    def _first_chunk(self) -> Iterator[tuple[Item, Found | Exception]]:
        """The chunk in front: a worker's result, or parsed here and now where no worker has begun with it."""
        chunk, future = self._running.popleft() if self._running else (self._cut(), None)
        self.start()  # so that the workers have something to do meanwhile
        here = future is None or future.cancel()
        return zip(chunk, _parse_all(self._parse, chunk, Event()) if here else future.result())

    def _cut(self) -> list[Item]:
        """A chunk's worth from the front of what waits; without workers a single document."""
        chunk, size = [], 0
        while self._waiting and not (size >= CHUNK_BYTES or len(chunk) == self._chunk_documents):
            item = self._waiting.popleft()
            chunk.append(item)
            size += size_of(item.content)
        self._waiting_bytes -= size
        return chunk


def in_order(documents: Iterable[Item], parse: Parse, workers: Workers) -> Iterator[tuple[Item, Found]]:
    """All documents, each with what it was parsed to."""
    ahead: Ahead[Item] = Ahead(parse, workers, chunks=4 * workers.count)
    for item in documents:
        ahead.put(item)
        ahead.start()
        while ahead.full:
            yield ahead.take()
    while ahead:
        yield ahead.take()


def _parse_all(parse: Parse, chunk: list[Item], stop: Event) -> list[Found | Exception]:
    results: list[Found | Exception] = []
    for item in chunk:
        if stop.is_set():
            break
        try:
            results.append(parse(item.content))
        except Exception as error:  # whatever it is: raised where its document is taken
            results.append(error)
    return results

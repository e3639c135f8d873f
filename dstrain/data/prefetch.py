"""A thread that prepares items ahead in a bounded store: waits when that is full, ends when it is closed."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

_JOIN_TIMEOUT_S = 10.0


class Prefetched(Generic[Item]):
    """The items of `produce(stop)`, made in a thread of their own; its exceptions surface in next(), in their turn.

    `stop` is set when the store is closed, so that a producer in the middle of long work can end early. The thread
    knows the store, not this object: when the consumer is gone, the store is closed.
    """

    def __init__(self, produce: Callable[[threading.Event], Iterator[Item]], depth: int, name: str):
        self._store: _Store[Item] = _Store(depth)
        thread = threading.Thread(target=_fill, args=(self._store, produce), name=name, daemon=True)
        self._close = weakref.finalize(self, _close, self._store, thread)  # runs at the interpreter's exit, too
        thread.start()

    def __next__(self) -> Item:
        return self._store.take()

    def close(self) -> None:
        """Ends the thread; what it had prepared is dropped."""
        self._close()


class _Store(Generic[Item]):
    def __init__(self, depth: int):
        self.stop = threading.Event()
        self._depth = depth
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._end: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Waits for room; False when the store was closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._depth or self.stop.is_set())
            if self.stop.is_set():
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def take(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._end is not None or self.stop.is_set())
            if self.stop.is_set():
                raise StopIteration
            if not self._items:
                raise self._end
            self._changed.notify_all()
            return self._items.popleft()

    def finish(self, end: BaseException) -> None:
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.stop.set()
            self._items.clear()
            self._changed.notify_all()


def _fill(store: _Store[Item], produce: Callable[[threading.Event], Iterator[Item]]) -> None:
    try:
        for item in produce(store.stop):
            if not store.put(item):
                return
        store.finish(StopIteration())
    except BaseException as error:  # whatever it is, the consumer must hear of it: it would wait for ever
        store.finish(error)


def _close(store: _Store[Item], thread: threading.Thread) -> None:
    store.close()
    if thread is not threading.current_thread():
        thread.join(_JOIN_TIMEOUT_S)

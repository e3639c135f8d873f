"""The store between the thread that prepares and the one that trains."""

import threading
import time

import pytest

from dstrain.data.prefetch import Prefetched


def test_what_was_prepared_before_an_error_comes_first_and_then_the_error():
    def produce(stop):
        yield 1
        yield 2
        raise OSError("disk gone")

    items = Prefetched(produce, depth=4, name="items")
    time.sleep(0.1)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(items)


def test_an_end_is_an_end():
    items = Prefetched(lambda stop: iter([1]), depth=4, name="items")
    assert next(items) == 1
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(items)


def test_no_more_is_prepared_than_the_depth():
    made = []

    def produce(stop):
        for number in range(100):
            made.append(number)
            yield number

    items = Prefetched(produce, depth=3, name="items")
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]  # three stored and the one that waits for room
    assert next(items) == 0
    items.close()


def test_a_producer_that_is_never_finished_hears_of_the_close():
    heard = threading.Event()

    def produce(stop):
        stop.wait()
        heard.set()
        yield from ()

    Prefetched(produce, depth=1, name="items").close()
    assert heard.is_set()

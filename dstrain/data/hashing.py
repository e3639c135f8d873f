"""All of the data's chance: integers mixed by splitmix64, so that an order is a function and never a generator's state.

The numbers are part of the promise: another mixing is another data order, and tests pin a few values.
"""

from __future__ import annotations

import hashlib

import numpy as np

# What a hash is for, as its first number: two uses with equal numbers behind it are independent all the same.
LANES, FILES, BLOCKS, MIXING, WINDOWS, NUMBERS, PUZZLES, VIEWS, MADE_PUZZLES, ADAPTING = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """64 bits that depend on every number and on their order."""
    state = 0
    for number in numbers:
        state = _scramble(state ^ (number & _MASK))
    return state


def permutation(size: int, *key: int) -> list[int]:
    """The numbers 0 .. size-1 in an order that the key alone decides."""
    state = mix(*key)
    return sorted(range(size), key=lambda number: _scramble(state ^ number))  # a bijection: there are no ties


def order_of(numbers: np.ndarray, *key: int) -> np.ndarray:
    """The places of these different numbers in an order that the key alone decides: of 0 .. size-1, `permutation`."""
    with np.errstate(over="ignore"):  # 64 bits, as below
        state = (numbers.astype(np.uint64) ^ np.uint64(mix(*key))) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(state ^ (state >> np.uint64(31)))


def row_hash(number: int, ids: np.ndarray, labels: np.ndarray, segments: np.ndarray) -> int:
    """63 bits of one row's contents: the ledger's witness that two runs trained on the same row."""
    digest = hashlib.blake2b(int(number).to_bytes(8, "little"), digest_size=8)
    for values in (ids, labels, segments):
        digest.update(np.ascontiguousarray(values, dtype="<i4"))
    return int.from_bytes(digest.digest(), "little") >> 1


def wrap_int64(number: int) -> int:
    """What int64 addition makes of a sum: equal whether hashes are added here or by an all-reduce."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _scramble(number: int) -> int:
    """splitmix64's step: a bijection of 64 bits."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)

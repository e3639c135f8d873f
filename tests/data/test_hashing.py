"""The integers that decide every order."""

import numpy as np

from dstrain.data.hashing import mix, permutation, row_hash, wrap_int64


def test_hashes_are_pinned_since_another_value_is_another_data_order():
    # splitmix64 with state 0 gives 0xE220A8397B1DCDAF first (its published reference value)
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(1, 2, 3) == 0xD0734750FDE362B3
    assert permutation(8, 1, 2) == [7, 5, 6, 1, 4, 3, 0, 2]


def test_a_permutation_holds_every_number_once_and_depends_on_each_number_of_its_key():
    assert sorted(permutation(1000, 7)) == list(range(1000))
    orders = {tuple(permutation(50, *key)) for key in [(1, 2, 3), (1, 2, 4), (1, 3, 2), (2, 1, 3), (1, 2), (-1, 2, 3)]}
    assert len(orders) == 6


def test_first_places_of_permutations_are_spread_evenly():
    # 10,000 keys over 10 places: 1,000 each, standard deviation 30
    firsts = np.bincount([permutation(10, 5, key)[0] for key in range(10_000)], minlength=10)
    assert firsts.min() > 850 and firsts.max() < 1150


def test_a_row_hash_sees_its_number_ids_labels_and_segments_and_no_dtype():
    ids, labels, segments = np.array([1, 2]), np.array([2, 3]), np.array([0, 0])
    base = row_hash(0, ids, labels, segments)
    assert 0 <= base < 2**63
    changed = [row_hash(1, ids, labels, segments), row_hash(0, ids + 1, labels, segments),
               row_hash(0, ids, labels + 1, segments), row_hash(0, ids, labels, segments + 1)]
    assert len({base, *changed}) == 5
    assert row_hash(0, ids.astype(np.int32), labels.astype(np.int32), segments.astype(np.int32)) == base


def test_sums_wrap_as_int64_sums_do():
    with np.errstate(over="ignore"):
        numbers = [2**63 - 1, 2**63 - 5, 2**62]
        assert wrap_int64(sum(numbers)) == int(np.sum(np.array(numbers, dtype=np.int64)))
    assert wrap_int64(2**63) == -(2**63) and wrap_int64(-1) == -1

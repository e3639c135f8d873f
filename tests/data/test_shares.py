"""Which lane gets which document."""

from collections import Counter

import pytest

from dstrain.data.shares import lane_of


@pytest.mark.parametrize("files, documents", [(1, 6400), (6400, 1), (80, 80)])
def test_every_lane_gets_an_even_share_of_one_big_file_of_many_small_ones_and_between(files, documents):
    # 6,400 documents over 64 lanes: 100 each. In the square case 64 x 80 + 16 x 64 are dealt evenly, and the last
    # 16 x 16, at 31 different places of one square, give a lane 16 more than another at most
    counts = Counter(lane_of(0, file, document, 64) for file in range(files) for document in range(documents))
    slack = 0 if 1 in (files, documents) else 16
    assert len(counts) == 64 and max(counts.values()) - min(counts.values()) <= slack


def test_alternating_long_and_short_documents_do_not_land_on_alternating_lanes():
    # 64,000 documents, every second one long: 500 long ones a lane; a plain n mod 64 would give 1,000 and 0
    long_ones = Counter(lane_of(0, 0, document, 64) for document in range(0, 64_000, 2))
    assert len(long_ones) == 64 and 400 < min(long_ones.values()) and max(long_ones.values()) < 600


def test_sources_are_dealt_out_independently():
    assert [lane_of(0, 0, n, 8) for n in range(64)] != [lane_of(1, 0, n, 8) for n in range(64)]


def test_one_lane_gets_everything():
    assert {lane_of(0, file, n, 1) for file in range(5) for n in range(5)} == {0}

"""Every element on one rank exactly: what the check of it lets through, and what it names."""

from __future__ import annotations

import pytest
import torch

from dstrain.runtime.dist import lone_rank
from dstrain.runtime.fragments import Fragment, check_covered

SHAPES = {"a": (2, 5), "b": ()}


def covered(*parts):
    check_covered([Fragment(name, start, torch.zeros(size), {}) for name, start, size in parts], SHAPES, lone_rank())


def test_parts_that_join_are_whole_in_any_order():
    covered(("a", 0, 10), ("b", 0, 1))
    covered(("a", 7, 3), ("b", 0, 1), ("a", 0, 2), ("a", 2, 5))


@pytest.mark.parametrize("parts", [
    [("a", 0, 5), ("a", 0, 5)],                # as many numbers as there are elements: half of them twice
    [("a", 0, 4), ("a", 5, 5)], [("a", 0, 6), ("a", 5, 5)], [("a", 0, 10), ("a", 0, 10)], [("a", 1, 10)],
    [("a", 0, 9)], [("a", 0, 11)], []])
def test_a_gap_an_overlap_and_a_part_too_many_are_named(parts):
    with pytest.raises(RuntimeError, match="of a not every element is on one rank exactly"):
        covered(*parts, ("b", 0, 1))

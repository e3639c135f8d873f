"""The plan by which matrices come together: complete, in order, and shared out evenly."""

from __future__ import annotations

import pytest
import torch

from dstrain.runtime.fragments import Place
from dstrain.runtime.matrices import Matrix, lay_out, turns


class OneOf:
    """Stands for a rank whose fellows report `of_ranks`, itself included."""

    def __init__(self, of_ranks):
        self.of_ranks = of_ranks

    def gather(self, own):
        assert own in self.of_ranks
        return self.of_ranks


FLAT = torch.arange(100.0)


def test_a_part_that_spans_two_stacked_matrices_is_two_parts():
    """A parameter of [4, 3] made of two matrices of [2, 3]; this rank holds its elements 4 .. 9, from 50 on."""
    ranks = OneOf([{("w", 0): (1, 0, 4)}, {("w", 0): (1, 4, 2), ("w", 1): (1, 0, 3)}, {("w", 1): (1, 3, 3)}])
    first, second = lay_out({"w": 2}, {"w": (4, 3)}, [Place("w", FLAT, 50, 4, 5)], [torch.zeros(1), FLAT], ranks, False)
    assert (first.rows, first.cols, first.sizes, first.unit) == (2, 3, (4, 2, 0), 1)
    assert first.of(FLAT).tolist() == [50, 51] and second.of(FLAT).tolist() == [52, 53, 54]
    assert second.sizes == (0, 3, 3)


@pytest.mark.parametrize("of_ranks", [
    [{("w", 0): (0, 3, 3)}, {("w", 0): (0, 0, 3)}],     # in another order than the ranks
    [{("w", 0): (0, 0, 3)}, {("w", 0): (0, 3, 2)}],     # the last element is missing
    [{("w", 0): (0, 0, 6)}, {("w", 0): (0, 0, 6)}]])    # twice
def test_parts_that_do_not_add_up_stop_the_run(of_ranks):
    _, start, size = of_ranks[0]["w", 0]
    with pytest.raises(RuntimeError, match="do not add up to its matrix 0 of 2 x 3"):
        lay_out({"w": 1}, {"w": (2, 3)}, [Place("w", FLAT, 0, start, size)], [FLAT], OneOf(of_ranks), False)


@pytest.mark.parametrize("shape, count", [((5, 3), 2), ((6,), 1), ((2, 3, 4), 1)])
def test_what_is_not_made_of_equal_matrices_is_refused(shape, count):
    with pytest.raises(ValueError, match="is not made of"):
        lay_out({"w": count}, {"w": shape}, [], [FLAT], OneOf([{}]), False)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_each_matrix_has_one_turn_and_the_work_is_shared(world):
    """Evenly cut ones, as at stage 3: no rank gets more than its share by more than one matrix."""
    matrices = [Matrix(8, cols, (8 * cols // world + 1,) * world, 0, FLAT, 0, 1) for cols in (8, 8, 8, 8, 32, 32) * 6]
    plan = turns(matrices, world)
    assert all(len(turn) == world for turn in plan)
    assert sorted(id(m) for turn in plan for m in turn if m is not None) == sorted(map(id, matrices))
    work = [sum(turn[rank].work for turn in plan if turn[rank]) for rank in range(world)]
    assert max(work) - sum(work) / world <= max(matrix.work for matrix in matrices)


def test_a_matrix_that_one_rank_holds_stays_there():
    """At stages 1 and 2 most do: only those at the borders travel."""
    at_home = [Matrix(4, 4, (16, 0), 0, FLAT, 0, 16), Matrix(4, 4, (16, 0), 0, FLAT, 16, 16)]
    cut, other = Matrix(4, 4, (9, 7), 0, FLAT, 32, 9), Matrix(4, 4, (0, 16), 0, None, 0, 0)
    assert turns([*at_home, cut, other], 2) == [(at_home[0], cut), (at_home[1], other)]

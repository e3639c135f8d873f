"""Figures of a proof: a number that is not finite is never within a bound, wherever it stands."""

from __future__ import annotations

import math

import pytest
import torch

from dstrain.doctor.finding import exactly, largest, relative, within
from dstrain.doctor.proofs.gradient import difference
from dstrain.doctor.proofs.same_curve import compare
from dstrain.doctor.short_run import Trace

NAN, INF = math.nan, math.inf


def trace(*losses: float) -> Trace:
    return Trace([{"loss": loss} for loss in losses], [{"rows": "0"}] * len(losses), [], [], [])


@pytest.mark.parametrize("errors, expected", [
    ([0.1, 0.3, 0.2], 0.3), ([0.1, NAN], INF), ([NAN, 0.1], INF), ([0.1, INF], INF), ([], INF)])
def test_the_largest_error_is_infinite_where_one_is_not_finite_or_none_was_measured(errors, expected):
    assert largest(errors) == expected


@pytest.mark.parametrize("found, expected, difference_of_both", [
    (1.5, 1.0, 0.5), (0.0, 0.0, 0.0), (1.0, 0.0, INF),
    (NAN, 1.0, INF), (1.0, NAN, INF), (NAN, NAN, INF), (INF, INF, INF)])
def test_a_relative_difference_has_a_value_for_all_numbers(found, expected, difference_of_both):
    assert relative(found, expected) == difference_of_both


@pytest.mark.parametrize("reference, other", [
    ((1.0, 2.0), (1.0, NAN)), ((1.0, NAN), (1.0, NAN)), ((1.0, 0.0), (1.0, 1.0))])
def test_curves_with_a_nan_or_a_zero_are_not_the_same(reference, other):
    assert compare(trace(*reference), [trace(*reference), trace(*other)])[0] == INF


@pytest.mark.parametrize("found, expected", [
    ([1.0, NAN], [1.0, 2.0]), ([1.0, 2.0], [1.0, NAN]), ([1.0, INF], [1.0, 2.0]), ([0.0, 0.0], [0.0, 0.0])])
def test_gradients_that_are_not_finite_or_all_zero_are_not_equal(found, expected):
    assert difference({"w": torch.tensor(found)}, {"w": torch.tensor(expected)}) == INF


def test_nothing_compared_is_nothing_proven():
    assert not exactly(0, 0, "positions", "cause").passed
    assert not within(NAN, 1.0, "", "", "cause").passed

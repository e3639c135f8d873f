"""Turns rotate, warm-up is not kept, and ratios are of one round: what slows a whole round changes none of them."""

from __future__ import annotations

import pytest
from rounds import Spread, Turn, fastest, ratio, take_turns


def test_every_contender_has_one_turn_a_round_and_the_first_one_rotates():
    order = []
    turns = take_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2, warmup_rounds=1)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(of_one) for name, of_one in turns.items()} == {"a": 2, "b": 2, "c": 2}


def test_what_slows_a_whole_round_changes_no_ratio():
    loop = [Turn(2.2, 1.0), Turn(22.0, 1.0), Turn(220.0, 1.0)]
    yardstick = [Turn(2.0, 1.0), Turn(20.0, 1.0), Turn(200.0, 1.0)]
    spread = ratio(loop, yardstick, "wall_s")
    assert spread.low == spread.median == spread.high == pytest.approx(1.1)


def test_quartiles_of_known_numbers():
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_the_fastest_is_the_one_with_the_shortest_median_turn():
    lucky_once = [Turn(0.1, 1.0), Turn(3.0, 1.0), Turn(3.0, 1.0)]
    assert fastest({"lucky once": lucky_once, "steady": [Turn(2.0, 1.0)] * 3}) == "steady"

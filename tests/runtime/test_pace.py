"""Who is slow, by five steps' own times of each rank: by how much, for how long, said once."""

from __future__ import annotations

from dstrain.runtime.pace import Judge, coreless_s, lower_median, typical


def test_of_two_ranks_the_faster_one_is_the_yardstick():
    assert lower_median([2.0, 1.0]) == 1.0 and lower_median([3.0, 1.0, 2.0]) == 2.0
    assert lower_median([4.0, 1.0, 2.0, 3.0]) == 2.0


def test_one_slow_step_of_five_makes_no_window_slow():
    assert typical([1.0, 1.0, 9.0, 1.0, 1.0]) == 1.0


def test_a_rank_is_named_in_its_second_slow_window_once_an_episode():
    judge = Judge(3)
    said = [judge.newly_slow([1.0, slow, 1.0]) for slow in (1.7, 1.0, 1.7, 1.7, 1.7, 1.4, 1.7, 1.0, 1.0, 1.7, 1.7)]
    assert said == [[], [], [], [1], [], [], [], [], [], [], [1]]


def test_milliseconds_are_nobodys_concern():
    judge = Judge(2)
    assert [judge.newly_slow([0.001, 0.0029]) for _ in range(5)] == [[]] * 5
    assert [judge.newly_slow([0.001, 0.0031]) for _ in range(2)] == [[], [1]]


def test_the_time_without_a_core_only_grows():
    before = coreless_s()
    assert 0.0 <= before <= coreless_s()

"""Who holds up the run, from records alone: ranks 0, 1 and 2 at step 12, of which one has given no sign for 20 s."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstrain.guard.blackbox import Record
from dstrain.guard.verdict import alarm_of, find

WAITS = Record(world=3, host="a", pid=7, step=12, phase="step", detail="update", signs=4, waits_in="sum",
               phase_for_s=20.0, named_after_s=10.0, ended_after_s=10.0, process_state="S")


def records(**of_rank_1) -> list[Record]:
    return [replace(WAITS, rank=0), replace(WAITS, rank=1, **of_rank_1), replace(WAITS, rank=2)]


def verdict(lost=(), **of_rank_1):
    all_records = records(**of_rank_1)
    return find(all_records[0], all_records, lost)


@pytest.mark.parametrize("kind, of_rank_1", [
    ("stuck", {"step": 11}),                                     # a step behind
    ("stuck", {"signs": 3}),                                     # a sign behind
    ("stuck", {"signs": 3, "phase": "data", "ended_after_s": 15.0}),
    ("stuck", {"waits_in": ""}),                                 # the same place, but not in the collective
    ("lost", {"gone": {"words": "vanished", "at": 1.0}}),
    ("lost", {"step": 13, "ending": {"cause": "data error"}}),   # it ended, and the others wait for it
])
def test_the_one_that_the_others_wait_for_is_named(kind, of_rank_1):
    found = verdict(**of_rank_1)
    assert (found.kind, [record.rank for record in found.ranks], found.ends) == (kind, [1], True)
    alarm = alarm_of(found, 3)
    assert alarm.rank == 1 and alarm.words.startswith("rank 1 on a, process 7, ")


def test_a_rank_whose_observer_is_silent_is_lost():
    assert verdict(lost=[1]).kind == "lost" and verdict(lost=[1]).ends


def test_where_all_wait_in_the_same_place_nobody_is_behind():
    found = verdict()
    assert found.nobody_behind and found.ends and alarm_of(found, 3).rank is None
    assert alarm_of(found, 3).words.startswith("all 3 ranks have been stuck in a collective (sum) for 20 s, in step 13")


def test_a_rank_that_may_take_longer_is_waited_for():
    slow = verdict(signs=3, phase="data", ended_after_s=600.0)
    assert slow.named and not slow.ends
    saving = verdict(signs=3, phase="saving", named_after_s=600.0, ended_after_s=3600.0)
    assert not saving.named and not saving.ends


def test_a_stopped_rank_is_left_to_its_own_observer_which_counts_from_when_it_was_stopped():
    found = verdict(process_state="T", waits_in="")
    assert (found.kind, found.ranks[0].rank, found.ends) == ("stopped", 1, False)


def test_a_rank_that_has_finished_is_not_waited_for_as_long_as_this_one_may_still_work():
    finished = {"step": 13, "phase": "leaving", "waits_in": "", "ending": {"cause": "finished"}}
    own, *others = records(**finished)
    own = replace(own, phase="saving", ended_after_s=3600.0)
    assert not find(own, [own, *others], []).ends

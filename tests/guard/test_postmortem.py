"""What a black box says: the origin before its consequences, in one sentence that names rank, host and place."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace

import pytest

from dstrain.guard import machine
from dstrain.guard.blackbox import Alarm, Record, RecordFile, raise_alarm, record_path, request_path, stack_path
from dstrain.guard.evidence import killed_for_memory
from dstrain.guard.postmortem import earlier_endings, find_ending, note_ending

ALIVE = Record(rank=0, world=2, host="alpha", pid=7, boot_id="b", attempt="1", started=100.0, at=150.0, step=12,
               phase="step", detail="update", memory_left_gib=9.0)
BETA = replace(ALIVE, rank=1, host="beta", pid=8)
BESIDE = replace(BETA, host="alpha")


def nobody(folder, records):
    """Whoever has not ended is not alive."""
    return records, set()


def ended(record: Record, cause: str, words: str = "words", at: float = 160.0, phase: str = "step") -> Record:
    ending = {"cause": cause, "words": words, "step": 12, "phase": phase, "detail": "", "at": at}
    return replace(record, phase="leaving", detail="", ending=ending)


def gone(record: Record, at: float = 160.0, words: str = "vanished", **more) -> Record:
    return replace(record, gone={"words": words, "at": at}, **more)


def box(folder, *records: Record, alarm: Alarm | None = None):
    (folder / "blackbox").mkdir(exist_ok=True)
    for record in records:
        file = RecordFile(folder, record.rank)
        file.write(record)
        file.close()
    if alarm is not None:
        assert raise_alarm(folder, alarm)
    return folder


def alarm(kind: str, at: float = 150.0, words: str = "rank 1 on beta has given no sign", **more) -> Alarm:
    return Alarm(**({"kind": kind, "rank": 1, "host": "beta", "pid": 8, "step": 12, "phase": "step", "detail": "",
                     "for_s": 20.0, "words": words, "attempt": "1", "at": at} | more))


LOST = ended(BETA, "lost a rank", "another rank is gone", at=150.0)
BY_OBSERVER = "ended by its observer: rank 1 ..."


@pytest.mark.parametrize("records, cause, says", [
    ([ended(ALIVE, "NaN", "all skipped", at=170.0), LOST], "NaN", ["gradients were NaN or Inf: all skipped"]),
    ([ended(ALIVE, "out of memory", "CUDA out of memory"), LOST], "out of memory", ["ran out of memory", "rank 0"]),
    ([ended(ALIVE, "disk full", "cannot save", phase="saving"), ended(BETA, "elsewhere", "failed on rank 0")],
     "disk full", ["the disk was full", "rank 0 on alpha", "saving after step 12"]),
    ([ended(ALIVE, "disk trouble", "Input/output error"), LOST], "disk trouble", ["the disk failed", "Input/output"]),
    ([ended(ALIVE, "data error", "a.jsonl, line 3", phase="data"), LOST], "data error",
     ["data could not be read", "waiting for the rows of step 13", "a.jsonl, line 3"]),
    ([ended(ALIVE, "mistake", "optim.name"), ended(BETA, "elsewhere")], "mistake", ["kept it from going on"]),
    ([ended(ALIVE, "interrupted", "Ctrl-C"), LOST], "interrupted", ["stopped by Ctrl-C, rank 0 on alpha, in step 13"]),
    ([ended(ALIVE, "error", "ValueError: two shapes (a.py, line 3)"), LOST], "error", ["two shapes (a.py, line 3)"]),
    ([ended(replace(ALIVE, oom_kills=2), "error", "RuntimeError: a worker died"), LOST], "error",
     ["the kernel had killed 2 process(es) of its container for want of memory"]),
])
def test_what_a_rank_said_is_told_and_that_others_lost_it_is_not(tmp_path, records, cause, says):
    ending = find_ending(box(tmp_path, *records), nobody)
    assert ending.cause == cause and ending.step == 12 and ending.started == 100.0
    for words in says:
        assert words in ending.sentence


@pytest.mark.parametrize("records, cause, says", [
    ([gone(ALIVE), LOST], "killed", ["rank 0 on alpha (process 7) was killed from outside", "in step 13 (update)",
                                     "9.0 GiB of memory were left"]),
    ([gone(replace(ALIVE, memory_left_gib=None)), LOST], "killed", ["in step 13 (update)"]),
    ([gone(ALIVE), gone(BETA, at=160.5)], "killed", ["all 2 ranks were killed", "at once", "rank 0 on alpha"]),
    ([gone(ALIVE, at=163.0), gone(BETA)], "killed", ["rank 1 on beta (process 8) was killed", "1 more rank(s)"]),
    ([gone(ALIVE, oom_kills=1, resident_gib=30.5), LOST], "out of memory", ["killed when it had 30.5 GiB"]),
    ([gone(ALIVE, memory_left_gib=0.1), LOST], "out of memory", ["most likely", "0.10 GiB of memory left"]),
    ([ALIVE, LOST], "node lost", ["alpha most likely went down or lost the network", "in step 13"]),
    ([ALIVE, ended(BESIDE, "lost a rank")], "killed", ["rank 0", "together with its observer", "most likely"]),
    ([ALIVE, BETA], "all lost", ["all 2 ranks on alpha, beta", "most likely the whole job was killed"]),
    ([replace(ALIVE, world=1)], "all lost", ["its rank on alpha ended together with its observer and without a word"]),
    ([ended(ALIVE, "lost a rank", at=149.0), LOST], "lost a rank",
     ["the connection between its ranks broke", "rank 0 on alpha", "network of alpha or beta"]),
    ([ended(replace(ALIVE, world=3), "lost a rank"), replace(LOST, world=3)], "lost a rank",
     ["rank 2 of 3 left no record"]),
])
def test_who_said_nothing_is_judged_by_what_was_seen_of_it(tmp_path, records, cause, says):
    ending = find_ending(box(tmp_path, *records), nobody)
    assert ending.cause == cause
    for words in says:
        assert words in ending.sentence
    assert "  " not in ending.sentence and "None" not in ending.sentence and not ending.sentence.endswith(".")


@pytest.mark.parametrize("records, cause, says", [
    ([ended(ALIVE, "left", "left at step 12, on SIGTERM"), ended(BETA, "left", "the same")], "left",
     ["asked to leave (preempted): left at step 12, on SIGTERM"]),
    ([ended(ALIVE, "left", "left at step 12, on run.max_minutes=2"), ended(BETA, "left", "the same")], "left",
     ["its time was nearly over", "run.max_minutes=2"]),
    ([ended(ALIVE, "left", "on SIGTERM"), gone(BETA, at=161.0)], "left", ["only then rank 1 on beta", "was killed"]),
    ([ended(ALIVE, "left", "on SIGTERM"), gone(BETA, at=159.0)], "killed", ["rank 1 on beta (process 8) was killed"]),
    ([ended(ALIVE, "left", "on SIGTERM"), BETA], "left", ["preempted"]),
    ([ended(ALIVE, "finished"), ended(BETA, "finished")], "finished", ["it finished, at step 12"]),
    ([ended(ALIVE, "finished"), gone(BETA)], "finished", ["it finished, at step 12; only then rank 1"]),
    ([ended(ALIVE, "finished"), ended(BETA, "error", "RuntimeError: in the shutdown")], "error", ["in the shutdown"]),
])
def test_what_was_saved_stays_preempted_or_finished_whatever_then_ended_a_rank(tmp_path, records, cause, says):
    ending = find_ending(box(tmp_path, *records), nobody)
    assert ending.cause == cause
    for words in says:
        assert words in ending.sentence


@pytest.mark.parametrize("records, first", [
    ([ended(ALIVE, "disk full", at=160.0), ended(BETA, "out of memory", at=159.0)], "out of memory"),
    ([ended(ALIVE, "disk full", at=160.0), gone(BETA, at=159.0)], "killed"),
    ([ended(ALIVE, "disk full", at=160.0), gone(BETA, at=161.0)], "disk full"),
    ([ended(ALIVE, "error", "RuntimeError: unknown to us", at=160.0), gone(BETA, at=160.1)], "killed"),
    ([ended(ALIVE, "error", "ValueError: its own", at=160.0), gone(BETA, at=161.0)], "error"),
])
def test_of_two_reasons_the_earlier_one_counts(tmp_path, records, first):
    assert find_ending(box(tmp_path, *records), nobody).cause == first


@pytest.mark.parametrize("kind", ["stuck", "stopped"])
def test_an_alarm_is_the_reason_and_the_deaths_that_it_brought_are_not(tmp_path, kind):
    dead = gone(ALIVE, words=BY_OBSERVER), gone(BETA, words=BY_OBSERVER)
    ending = find_ending(box(tmp_path, *dead, alarm=alarm(kind)), nobody)
    assert ending.cause == kind
    assert ending.sentence == "it was ended because rank 1 on beta has given no sign, in step 13"


def test_who_was_asked_to_leave_and_killed_before_it_was_done_had_too_little_time(tmp_path):
    box(tmp_path, gone(ALIVE, at=160.0), gone(BETA, at=160.2))
    request_path(tmp_path, 1).write_text(json.dumps({"reason": "SIGTERM", "at": 130.0}))
    ending = find_ending(tmp_path, nobody)
    assert ending.cause == "killed while leaving"
    assert "asked to leave (SIGTERM), as in a preemption, and was killed 30 s later" in ending.sentence
    box(tmp_path, ALIVE, BETA)
    assert find_ending(tmp_path, nobody).cause == "killed while leaving"
    box(tmp_path, ended(ALIVE, "disk full"), LOST)
    assert find_ending(tmp_path, nobody).cause == "disk full"


def test_an_error_while_a_rank_was_stuck_is_a_consequence_and_one_before_is_the_reason(tmp_path):
    others = gone(BETA, words=BY_OBSERVER), alarm("stuck", at=150.0, for_s=20.0)
    assert find_ending(box(tmp_path, ended(ALIVE, "error", "timeout", at=140.0), others[0], alarm=others[1]),
                       nobody).cause == "stuck"
    box(tmp_path, ended(ALIVE, "disk full", at=129.0))
    assert find_ending(tmp_path, nobody).cause == "disk full"


def test_an_alarm_that_a_rank_is_lost_leads_to_what_ended_that_rank(tmp_path):
    waited = gone(ALIVE, at=170.0, words=BY_OBSERVER)
    for rank, cause in ((ended(BETA, "data error"), "data error"), (gone(BETA), "killed"), (BETA, "node lost")):
        assert find_ending(box(tmp_path, waited, rank), nobody).cause == cause
    raise_alarm(tmp_path, alarm("lost"))
    for rank, cause in ((ended(BETA, "data error"), "data error"), (gone(BETA), "killed"), (BETA, "node lost")):
        assert find_ending(box(tmp_path, waited, rank), nobody).cause == cause


def test_an_alarm_of_an_earlier_attempt_is_not_the_reason(tmp_path):
    assert find_ending(box(tmp_path, gone(ALIVE), gone(BETA), alarm=alarm("stuck", attempt="0")),
                       nobody).cause == "killed"


def test_a_machine_that_was_started_again_took_the_run_with_it(tmp_path):
    here = replace(ALIVE, host=socket.gethostname(), boot_id="another")
    ending = find_ending(box(tmp_path, here, replace(here, rank=1)), nobody)
    assert ending.cause == "node lost" and "went down, and was started again since" in ending.sentence


def test_a_crash_in_native_code_is_told_by_the_stacks_that_it_left(tmp_path):
    box(tmp_path, gone(ALIVE), LOST)
    stack_path(tmp_path, 0).write_text('Fatal Python error: Segmentation fault\n\n'
                                       'Thread 0x1 (most recent call first):\n  File "/a/b.py", line 1 in wait\n\n'
                                       'Current thread 0x2 (most recent call first):\n'
                                       '  File "/x/dstrain/train/step.py", line 64 in train_step\n')
    ending = find_ending(tmp_path, nobody)
    assert ending.cause == "crashed"
    assert "Segmentation fault, below train_step in dstrain/train/step.py, line 64" in ending.sentence


@pytest.mark.parametrize("line, found", [
    ("Memory cgroup out of memory: Killed process 7 (python) total-vm:9kB, anon-rss:3145728kB", "3.0 GiB"),
    ("Out of memory: Killed process 7 (python)", ""),
    ("Out of memory: Killed process 77 (python) anon-rss:3145728kB", None),
    ("python[7]: segfault at 0", None),
])
def test_the_kernels_log_names_whom_it_killed_for_want_of_memory(line, found):
    assert killed_for_memory(ALIVE, [(160.0, line)]) == found
    assert killed_for_memory(ALIVE, [(900.0, line)]) is None, "another process has had that number since"


def test_a_run_whose_record_moves_is_still_running(tmp_path):
    box(tmp_path, ALIVE, BETA)

    def moves(folder, records):
        return records, {0, 1}
    ending = find_ending(tmp_path, moves)
    assert ending.cause == "running" and ending.sentence == "it is still running, in step 13 (update)"
    box(tmp_path, replace(BETA, phase_for_s=40.0, process_state="T"))
    assert "rank 1 on beta (process 8) has given no sign for 40 s, it is stopped" in find_ending(tmp_path,
                                                                                              moves).sentence
    box(tmp_path, ended(ALIVE, "disk full"))
    assert "rank 1 on beta (process 8) is still there" in find_ending(tmp_path, lambda _, found: (found, {1})).sentence


@pytest.mark.parametrize("started, cause", [(2e9, "running"), (100.0, "all lost")])
def test_a_rank_without_its_observer_is_alive_but_a_younger_process_of_its_number_is_not(tmp_path, monkeypatch, started,
                                                                                       cause):
    monkeypatch.setattr("dstrain.guard.postmortem.MOVES_WITHIN_S", 0.1)
    me = replace(ALIVE, world=1, host=socket.gethostname(), boot_id=machine.boot_id(), pid=os.getpid(), started=started)
    assert find_ending(box(tmp_path, me)).cause == cause


def test_no_black_box_no_verdict(tmp_path):
    assert find_ending(tmp_path) is None
    note_ending(tmp_path)
    assert not (tmp_path / "endings.jsonl").exists() and earlier_endings(tmp_path) == []


@pytest.mark.parametrize("harm", [{"ending": "text"}, {"ending": {"cause": "left"}}, {"phase": "unheard of"},
                                  {"started": "yesterday"}, {"step": None}, {"gone": {}}])
def test_a_damaged_record_keeps_nobody_from_starting(tmp_path, harm):
    box(tmp_path, ALIVE, gone(BETA))
    path = record_path(tmp_path, 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | harm))
    note_ending(tmp_path)
    assert [one.cause for one in earlier_endings(tmp_path)] == ["killed"]


def test_the_verdict_on_an_attempt_is_kept_when_the_next_begins_behind_a_line_that_is_torn_too(tmp_path):
    note_ending(box(tmp_path, gone(ALIVE), LOST))
    with open(tmp_path / "endings.jsonl", "a") as file:
        file.write('{"cause": "to')
    note_ending(box(tmp_path, ended(ALIVE, "left", "SIGTERM"), ended(BETA, "left", "SIGTERM")))
    assert [(one.cause, one.step, one.ended) for one in earlier_endings(tmp_path)] == [
        ("killed", 12, 160.0), ("left", 12, 160.0)]

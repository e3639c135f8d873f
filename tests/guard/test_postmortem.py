"""What a black box says: the origin before its consequences, in one sentence that names rank, host and place."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest

from dstrain.config.errors import Left, LostRank, SaidElsewhere, Trouble, UserError
from dstrain.guard.blackbox import Alarm, Record, RecordFile, raise_alarm
from dstrain.guard.causes import cause_of
from dstrain.guard.postmortem import find_ending, note_ending

ALIVE = Record(rank=0, world=2, host="alpha", pid=7, boot_id="b", attempt="1", started=100.0, at=150.0, step=12,
               phase="step", memory_left_gib=9.0)
BETA = replace(ALIVE, rank=1, host="beta", pid=8)


def ended(record: Record, cause: str, words: str, at: float = 160.0, phase: str = "step") -> Record:
    return replace(record, ending={"cause": cause, "words": words, "step": 12, "phase": phase, "at": at})


def gone(record: Record, at: float = 160.0, **more) -> Record:
    return replace(record, gone={"words": "gone", "at": at}, **more)


def box(folder, *records: Record, alarm: Alarm | None = None):
    (folder / "blackbox").mkdir(exist_ok=True)
    for record in records:
        file = RecordFile(folder, record.rank)
        file.write(record)
        file.close()
    if alarm is not None:
        assert raise_alarm(folder, alarm)
    return folder


LOST = ended(BETA, "lost a rank", "another rank is gone", at=150.0)


@pytest.mark.parametrize("records, cause, says", [
    ([ended(ALIVE, "NaN", "all skipped", at=170.0), LOST], "NaN", ["NaN or Inf", "rank 0 on alpha", "step 13"]),
    ([ended(ALIVE, "out of memory", "CUDA out of memory"), LOST], "out of memory", ["ran out of memory", "rank 0"]),
    ([ended(ALIVE, "disk full", "cannot save"), ended(BETA, "elsewhere", "failed on rank 0")], "disk full",
     ["the disk was full", "rank 0 on alpha"]),
    ([ended(ALIVE, "data error", "a.jsonl, line 3", phase="data"), LOST], "data error",
     ["data could not be read", "waiting for the rows of step 13", "a.jsonl, line 3"]),
    ([gone(ALIVE), LOST], "killed", ["rank 0 on alpha (process 7) was killed from outside", "9.0 GiB"]),
    ([gone(ALIVE), gone(BETA, at=161.0)], "killed", ["all 2 ranks were killed from outside", "rank 0 on alpha"]),
    ([gone(ALIVE, oom_kills=1, resident_gib=30.5), LOST], "out of memory", ["kernel killed", "at 30.5 GiB"]),
    ([gone(ALIVE, memory_left_gib=0.1), LOST], "out of memory", ["most likely", "0.10 GiB of memory left"]),
    ([ALIVE, LOST], "node lost", ["alpha was lost", "in step 13"]),
    ([ALIVE, BETA], "all lost", ["2 of 2 rank(s) on alpha, beta", "most likely the whole job was killed"]),
    ([ended(ALIVE, "left", "SIGTERM"), ended(BETA, "left", "SIGTERM")], "left", ["preempted", "SIGTERM"]),
    ([ended(ALIVE, "finished", ""), ended(BETA, "finished", "")], "finished", ["it finished: 12 steps"]),
    ([ended(ALIVE, "interrupted", "Ctrl-C"), LOST], "interrupted", ["stopped by Ctrl-C"]),
])
def test_the_origin_is_told_and_not_its_consequences(tmp_path, records, cause, says):
    ending = find_ending(box(tmp_path, *records), beats=lambda record: False)
    assert ending.cause == cause and ending.step == 12 and ending.started == 100.0
    for words in says:
        assert words in ending.sentence


def test_an_alarm_is_the_reason_and_the_deaths_that_it_brought_are_not(tmp_path):
    alarm = Alarm("stopped", 1, "beta", 8, 12, "step", "", 21.0, "rank 1 on beta is stopped", "1")
    assert find_ending(box(tmp_path, gone(ALIVE), gone(BETA), alarm=alarm)).sentence == (
        "it was ended because rank 1 on beta is stopped")


def test_an_alarm_of_an_earlier_attempt_is_not_the_reason(tmp_path):
    alarm = Alarm("stopped", 1, "beta", 8, 12, "step", "", 21.0, "rank 1 on beta is stopped", "0")
    assert find_ending(box(tmp_path, gone(ALIVE), gone(BETA), alarm=alarm)).cause == "killed"


def test_a_run_whose_record_moves_is_still_running(tmp_path):
    ending = find_ending(box(tmp_path, ALIVE, BETA), beats=lambda record: True)
    assert ending.cause == "running" and "still running" in ending.sentence and "step 13" in ending.sentence


def test_no_black_box_no_verdict(tmp_path):
    assert find_ending(tmp_path) is None
    note_ending(tmp_path)
    assert not (tmp_path / "endings.jsonl").exists()


def test_the_verdict_on_an_attempt_is_kept_when_the_next_begins(tmp_path):
    note_ending(box(tmp_path, gone(ALIVE), LOST))
    note_ending(box(tmp_path, ended(ALIVE, "left", "SIGTERM"), ended(BETA, "left", "SIGTERM")))
    lines = [json.loads(line) for line in (tmp_path / "endings.jsonl").read_text().splitlines()]
    assert [(line["cause"], line["step"], line["ended"]) for line in lines] == [("killed", 12, 160.0),
                                                                             ("left", 12, 160.0)]


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


def chained(error: Exception, origin: Exception) -> Exception:
    error.__cause__ = origin
    return error


@pytest.mark.parametrize("error, phase, detail, cause", [
    (None, "step", "", "finished"),
    (Left("SIGTERM"), "leaving", "", "left"),
    (KeyboardInterrupt(), "data", "", "interrupted"),
    (LostRank("gone"), "step", "", "lost a rank"),
    (SaidElsewhere("there"), "data", "", "elsewhere"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate"), "step", "", "out of memory"),
    (MemoryError(), "start", "", "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "step", "", "out of memory"),
    (OSError(errno.ENOSPC, "No space left on device"), "saving", "", "disk full"),
    (chained(Trouble("cannot save"), OSError(errno.EDQUOT, "quota")), "saving", "", "disk full"),
    (chained(Trouble("cannot save"), OSError(errno.EIO, "I/O error")), "saving", "", "disk trouble"),
    (OSError(errno.EIO, "I/O error"), "data", "", "data error"),
    (UserError("a.jsonl, line 3: not JSON"), "data", "", "data error"),
    (UserError("a.jsonl, line 3: not JSON"), "start", "reading the first step's rows", "data error"),
    (UserError("optim.name is ..."), "start", "going on from a checkpoint", "mistake"),
    (ValueError("two shapes"), "step", "micro-batch 1", "error"),
])
def test_the_cause_is_told_by_type_and_place(error, phase, detail, cause):
    found, words = cause_of(error, phase, detail)
    assert found == cause and "\n" not in words

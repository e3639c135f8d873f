"""Real trainings on two ranks: a stopped rank, one that hangs in native code, one that is twice as slow."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from small_run import ROOT, environment, lay_out
from stuck import ENDLESS, VALIDATES
from stuck_runs import Ranks, alive_in, faults_of
from windows import NAMED_WITHIN, named_after

from dstrain.guard.blackbox import read_alarm, read_record, read_records
from dstrain.runtime.rank_group import RankGroup

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """By the launch script, its second rank stopped from outside."""
    place = lay_out(tmp_path_factory.mktemp("launched"))
    process = subprocess.Popen(["bash", str(ROOT / "launch/local.sh"), "--ranks", "2", "small.yaml", *ENDLESS],
                               cwd=place, env=environment() | {"OMP_NUM_THREADS": "1"}, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    yield place, process
    process.kill()


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """Started one by one, as srun does; its second rank hangs in native code, in the forward pass of step 21."""
    place = lay_out(tmp_path_factory.mktemp("hanging"))
    return Ranks(place, "hanging", 2, {1: ("native", "step", 62)}, *ENDLESS, *VALIDATES, "engine.config=zero3_fp32")


def test_a_rank_twice_as_slow_is_named_within_20_steps(tmp_path, launched, hanging):
    place, process = launched  # these two get stuck meanwhile
    deadline = time.time() + 60
    while len(records := read_records(place / "runs/small")) < 2 or records[1].step < 10:
        assert time.time() < deadline
        time.sleep(0.1)
    os.kill(records[1].pid, signal.SIGSTOP)
    lay_out(tmp_path)
    with RankGroup(2) as group:
        after = [named_after(group, tmp_path, stage, 43) for stage in (1, 3)]
    assert all(steps is not None and steps <= NAMED_WITHIN for steps in after), after


def test_a_rank_in_native_code_is_named_in_time_and_all_end(hanging):
    outcome = hanging.outcome()
    assert faults_of(outcome, 1, "stuck") == []
    assert "in step 21 (micro-batch 1 of 1)" in outcome.named and "in happen" in outcome.stacks[1]


def test_a_stopped_rank_ends_a_launched_run_with_one_verdict_and_leaves_nothing(launched):
    place, process = launched
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.count("is stopped (as by SIGSTOP)") == 1 and "rank 1 on " in said, said
    assert alive_in(place, patience_s=5) == []
    folder = place / "runs/small"
    alarm = read_alarm(folder)
    assert (alarm.kind, alarm.rank) == ("stopped", 1)
    assert alarm.for_s < 2 * read_record(folder, 1).slowest_step_s + 10
    verdict = subprocess.run(["dstrain", "postmortem", "runs/small"], cwd=place, env=environment(), text=True,
                             capture_output=True, timeout=60)
    assert "rank 1" in verdict.stdout and "stopped" in verdict.stdout, verdict.stdout + verdict.stderr

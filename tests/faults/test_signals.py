"""A short set of requests to leave, the same for every change; the whole one is `python tests/faults/signals.py`."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest
from small_run import environment

from dstrain.guard.bell import LEFT
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks


def test_asked_at_random_moments_until_finished_it_is_the_run_never_asked():
    # A process of its own: the server that it forks ranks from must have the signals blocked, as a launcher has.
    script = str(Path(harness.__file__).with_name("signals.py"))
    done = subprocess.run([sys.executable, script, "--short", "--requests", "6"], env=environment(), text=True,
                          capture_output=True, timeout=500, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^([6-9]|[1-9]\d+) requests, [2-9] runs finished, 0 faults", done.stdout, re.M), done.stdout


def test_a_limited_run_has_left_and_saved_before_its_time_is_over(tmp_path):
    place = harness.lay_out(tmp_path / "limited")
    limit_s = 24.0
    job = harness.start(place, "run.dir=limited", "run.steps=100000", "schedule.name=WarmupLR", "checkpoint.keep=2",
                        f"run.max_minutes={limit_s / 60}")
    assert job.wait() == [LEFT, LEFT], job.words()
    assert time.monotonic() - job.began < limit_s, job.words()
    run = RunFolder(place / "limited/run")
    step = max(line["step"] for line in read_lines(run.metrics))
    assert f"left at step {step} of 100000, on run.max_minutes=0.4" in job.words()
    assert (run.checkpoints / "latest").read_text() == f"step_{step:08d}\n"

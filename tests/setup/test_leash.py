"""No rank outlives its launcher: one that is killed cannot end its ranks, so they save and leave by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from launched import DEEPSPEED, LOCAL, TORCHRUN, Launched
from small_run import ROOT

pytestmark = pytest.mark.ranks

WITHIN_S = 60.0


def is_rank(process: psutil.Process) -> bool:
    try:
        return any("launch/train.py" in word for word in process.cmdline()) and "RANK" in process.environ()
    except psutil.Error:
        return False


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


def outermost(run: Launched) -> psutil.Process:
    return psutil.Process(run.process.pid)


def of_the_node(run: Launched) -> psutil.Process:
    """DeepSpeed's second launcher, the ranks' parent."""
    return next(process for process in run.processes() if "deepspeed.launcher.launch" in process.cmdline())


@pytest.mark.parametrize("command, whom", [
    (LOCAL, outermost), (LOCAL, of_the_node), (DEEPSPEED, outermost), (TORCHRUN, outermost),
], ids=["local.sh", "local.sh, the node's launcher", "deepspeed", "torchrun"])
def test_when_its_launcher_is_killed_the_ranks_save_and_leave(launched, command, whom):
    run = launched(command)
    run.until("saved")
    started = run.processes()
    ranks = [process for process in started if is_rank(process)]
    assert len(ranks) >= 2
    kill(whom(run))
    assert run.process.wait(WITHIN_S) != 0
    _, left_behind = psutil.wait_procs(started, timeout=WITHIN_S)
    assert not left_behind, (left_behind, run.said())
    run.saved_all()


@pytest.mark.parametrize("command", [LOCAL, TORCHRUN, DEEPSPEED], ids=["local.sh", "torchrun", "deepspeed"])
def test_when_a_rank_is_killed_nothing_is_left_behind(launched, command):
    run = launched(command)
    run.until("saved")
    started = run.processes()
    kill(next(process for process in started if is_rank(process) and process.environ()["RANK"] == "1"))
    assert run.ended(WITHIN_S) != 0, run.said()
    assert psutil.wait_procs(started, timeout=10)[1] == []


def test_a_process_that_no_launcher_started_outlives_its_shell(tmp_path):
    """As with nohup: started by a shell that ends at once."""
    code = ("import os, sys, time; sys.path.insert(0, sys.argv[1]); import leash; leash.hold(os.environ); "
            "time.sleep(2); open(sys.argv[2], 'w').close()")
    given = {name: value for name, value in os.environ.items() if name != "RANK"}
    done = tmp_path / "done"
    subprocess.run(["bash", "-c", '"$@" & exit', "bash", sys.executable, "-c", code, str(ROOT / "launch"), str(done)],
                   env=given, check=True, timeout=20)
    deadline = time.monotonic() + 20
    while not done.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)

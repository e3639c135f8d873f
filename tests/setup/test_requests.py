"""SIGTERM and SIGUSR1 through the launch scripts: to the script, its process group, every process; to torchrun."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_run import ROOT, environment, lay_out, read_lines

pytestmark = pytest.mark.ranks

LOCAL = ["bash", str(ROOT / "launch/local.sh")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            str(ROOT / "launch/train.py")]
ENDLESS = ["small.yaml", "run.steps=100000", "schedule.name=WarmupLR"]
LEFT = 75


class Launched:
    """A training that would go on for ever, in a process group of its own, with all that it has started."""

    def __init__(self, place: Path, command: list[str], ignored: int | None = None):
        self.place, self.log = place, open(place / "log", "w+")
        # As a parent may leave it behind: an ignored signal is inherited.
        ignore = (lambda: signal.signal(ignored, signal.SIG_IGN)) if ignored else None
        self.process = subprocess.Popen([*command, *ENDLESS], cwd=place, env=environment(), start_new_session=True,
                                        stdout=self.log, stderr=subprocess.STDOUT, preexec_fn=ignore)

    def until(self, words: str) -> None:
        deadline = time.monotonic() + 120
        while words not in self.said():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        return (self.place / "log").read_text()

    def processes(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def ask(self, number: int, whom: str) -> None:
        if whom == "script":
            os.kill(self.process.pid, number)
        elif whom == "group":
            os.killpg(self.process.pid, number)
        else:  # as Slurm does
            for process in self.processes():
                process.send_signal(number)

    def ended(self, within_s: float = 60.0) -> int:
        started = self.processes() if self.process.poll() is None else []
        try:
            return self.process.wait(within_s)
        finally:
            _, left_behind = psutil.wait_procs(started, timeout=10)
            for process in left_behind:
                process.kill()
            assert not left_behind, self.said()

    def end(self) -> None:
        """By their ids: the ones it has started, and ranks whose launcher is gone (their folder is this test's own)."""
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.place.resolve()):
                    process.kill()
            except psutil.Error:
                continue  # ended meanwhile, or another user's
        self.process.wait(10)
        self.log.close()

    def saved_all(self) -> None:
        """It left at the last step that it recorded, and a checkpoint of that step is there."""
        step = int(re.search(r"left at step (\d+) of 100000, on (SIGTERM|SIGUSR1)", self.said())[1])
        run = self.place / "runs/small"
        assert (run / "checkpoints/latest").read_text() == f"step_{step:08d}\n"
        for name in ("metrics.jsonl", "ledger.jsonl"):
            assert max(line["step"] for line in read_lines(run / name)) == step


@pytest.fixture
def launched(tmp_path):
    """launched(command): nothing of it outlives the test, however that ends."""
    runs: list[Launched] = []

    def launch(*arguments) -> Launched:
        runs.append(Launched(lay_out(tmp_path), *arguments))
        return runs[-1]

    yield launch
    for run in runs:
        run.end()


@pytest.mark.parametrize("numbers, whom, ignored", [
    ([signal.SIGTERM], "script", None),
    ([signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1], "group", signal.SIGUSR1),
    ([signal.SIGTERM], "all", None),
], ids=["script", "group, three times", "all"])
def test_local_saves_leaves_with_75_and_leaves_no_process_behind(launched, numbers, whom, ignored):
    run = launched(LOCAL, ignored)
    run.until("saved")
    for number in numbers:
        run.ask(number, whom)
        time.sleep(0.1)
    assert run.ended() == LEFT, run.said()
    run.saved_all()
    assert "Traceback" not in run.said() and run.said().count("dstrain:") == 1, run.said()


# In bash, in its search for a port, in the launcher's imports.
@pytest.mark.parametrize("after_s", [0.01, 0.05, 0.1, 2.5])
def test_local_asked_while_it_starts_ends_with_75_with_nothing_said_but_that(launched, after_s):
    run = launched(LOCAL)
    time.sleep(after_s)
    run.ask(signal.SIGTERM, "script")
    code = run.ended()
    assert code in (LEFT, -signal.SIGTERM) if after_s < 1 else code == LEFT, run.said()
    assert "Traceback" not in run.said()


def test_torchrun_passes_a_request_on_and_the_ranks_save(launched):
    run = launched(TORCHRUN)
    run.until("saved")
    run.ask(signal.SIGTERM, "script")
    assert run.ended() != 0  # torchrun's own: it knows no code but success
    run.saved_all()

"""A training that would go on for ever, started by a launcher, with all processes that it has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from small_run import ROOT, environment, read_lines

LOCAL = ["bash", str(ROOT / "launch/local.sh")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            str(ROOT / "launch/train.py")]
DEEPSPEED = [str(Path(sys.executable).parent / "deepspeed"), "--hostfile", "/dev/null", "--num_accelerators", "2",
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

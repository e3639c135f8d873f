"""Real trainings of 2 and 3 processes in which a rank gets stuck, watched from outside."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from small_run import ROOT, environment

from dstrain.guard.blackbox import Alarm, Record, read_alarm, read_records, stack_path
from dstrain.runtime.dist import free_port

HERE = Path(__file__).resolve().parent


@dataclass
class Outcome:
    """What was seen of one run."""

    codes: list[int]
    said: list[tuple[float, str]]
    """standard error of all ranks, with the time at which each line came"""
    stuck_at: float
    alarm: Alarm | None
    records: list[Record]
    left: list[int]
    """processes that are still there"""
    stacks: dict[int, str]
    ended_s: float
    """from the fault to the last process's end"""

    @property
    def named_s(self) -> float | None:
        """From the fault to its naming."""
        return next((at - self.stuck_at for at, line in self.said if re.match(r"dstrain: (rank|all) \d", line)), None)

    @property
    def named(self) -> str:
        return next((line for _, line in self.said if re.match(r"dstrain: (rank|all) \d", line)), "")

    @property
    def bound_s(self) -> float:
        return 2 * max(record.slowest_step_s for record in self.records) + 10


class Ranks:
    """As a launcher starts them, each with its number in the environment; their standard errors in one stream."""

    def __init__(self, place: Path, name: str, world: int, faults: dict[int, tuple[str, str, int]], *overrides: str):
        self.place, self.name, self.world = place, name, world
        self.lines: queue.Queue[tuple[float, str]] = queue.Queue()
        self.said: list[tuple[float, str]] = []
        common = environment() | {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1",
                                  "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common["PYTHONPATH"] = f"{ROOT}{os.pathsep}{HERE}"
        self.processes = []
        for rank in range(world):
            fault, phase, times = faults.get(rank, ("none", "", 0))
            command = [sys.executable, str(HERE / "stuck_rank.py"), fault, phase, str(times), "train", "small.yaml",
                       f"run.name={name}", *overrides]
            self.processes.append(subprocess.Popen(
                command, cwd=place, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        for process in self.processes:
            threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen) -> None:
        for line in process.stderr:
            self.lines.put((time.time(), line.rstrip()))
        self.lines.put((time.time(), ""))

    def hear(self, timeout_s: float) -> tuple[float, str] | None:
        try:
            self.said.append(self.lines.get(timeout=max(0.01, timeout_s)))
        except queue.Empty:
            return None
        return self.said[-1]

    def until_step(self, step: int, timeout_s: float = 120) -> None:
        """As the black box of the first rank says."""
        deadline = time.time() + timeout_s
        while time.time() < deadline:
            records = read_records(self.place / "runs" / self.name)
            if len(records) == self.world and min(record.step for record in records) >= step:
                return
            time.sleep(0.05)
        raise AssertionError(f"no step {step} within {timeout_s} s: {self.said}")

    def stop(self, rank: int) -> float:
        os.kill(self.processes[rank].pid, signal.SIGSTOP)
        return time.time()

    def outcome(self, stuck_at: float | None = None, timeout_s: float = 120) -> Outcome:
        """Wait for the end of all; what is still there then is killed, and told."""
        deadline = time.time() + timeout_s
        while time.time() < deadline and any(process.poll() is None for process in self.processes):
            self.hear(0.1)
        ended = time.time()
        while self.hear(0.2):
            pass
        if stuck_at is None:
            stuck_at = next(float(line.split()[-1]) for _, line in self.said if line.startswith("stuck at "))
        left = alive_in(self.place, patience_s=3)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        folder = self.place / "runs" / self.name
        stacks = {rank: path.read_text() for rank in range(self.world)
                  if (path := stack_path(folder, rank)).is_file()}
        return Outcome([process.wait() for process in self.processes], self.said, stuck_at, read_alarm(folder),
                       read_records(folder), left, stacks, ended - stuck_at)


def alive_in(place: Path, patience_s: float = 0) -> list[int]:
    """Processes whose working directory is this one, observers too, after some patience."""
    deadline = time.time() + patience_s
    while (found := _alive_in(place)) and time.time() < deadline:
        time.sleep(0.05)
    return found


def _alive_in(place: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").resolve() == place.resolve() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue  # ended meanwhile
    return found


def faults_of(outcome: Outcome, rank: int | None, kind: str, within_s: float | None = None) -> list[str]:
    """What of the promise was not kept."""
    wrong, alarm = [], outcome.alarm
    if alarm is None or alarm.rank != rank or alarm.kind != kind:
        wrong.append(f"not named as rank {rank} {kind}: {json.dumps(alarm and alarm.words)}")
    if outcome.named_s is None or outcome.named_s > (within_s or outcome.bound_s):
        wrong.append(f"named after {outcome.named_s} s, bound {outcome.bound_s:.1f} s")
    if 0 in outcome.codes:
        wrong.append(f"exit codes {outcome.codes}")
    if outcome.left:
        wrong.append(f"processes left: {outcome.left}")
    for record in outcome.records:
        stopped = kind == "stopped" and record.rank == rank
        stack = outcome.stacks.get(record.rank, "")
        if ("stopped" if stopped else "Thread 0x") not in stack and "Current thread" not in stack:
            wrong.append(f"no stacks of rank {record.rank}")
    return wrong

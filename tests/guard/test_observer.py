"""Observers beside ranks that give the signs of a training: who is named, when, and what is left. Run all at once.

A step takes 0.05 s here, on a machine that is not busy, so a rank is named within 2 x 0.05 + 10 s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dstrain.guard.blackbox import clear, read_alarm, read_record, stack_path

TOY = Path(__file__).resolve().parent / "toy_rank.py"
ENDLESS = 100_000


class Run:
    """Toy ranks in a process group of their own."""

    def __init__(self, folder: Path, world: int, steps: int, faults: dict[int, list[str]]):
        self.folder, self.steps = folder, steps
        folder.mkdir()
        clear(folder)
        self.began = time.time()
        self.ranks: list[subprocess.Popen] = []
        for rank in range(world):
            self.ranks.append(subprocess.Popen(
                [sys.executable, str(TOY), str(folder), str(rank), str(world), str(steps), *faults.get(rank, [])],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                preexec_fn=lambda: os.setpgid(0, self.ranks[0].pid if self.ranks else 0)))
        self.fault_at: float | None = None
        self.said = ""

    @property
    def group(self) -> int:
        return self.ranks[0].pid

    def until_steps(self, steps: int) -> None:
        """And until all observers are there."""
        deadline = time.time() + 60
        while not all((record := self.record(rank)) is not None and record.step >= steps
                      for rank in range(len(self.ranks))):
            assert time.time() < deadline
            time.sleep(0.02)

    def observer_of(self, rank: int, other_than: int = 0) -> int:
        """`other_than`: where there is no other yet."""
        return next((pid for pid in map(int, (path.name for path in Path("/proc").glob("[0-9]*")))
                     if pid != other_than and parent_of(pid) == self.ranks[rank].pid), other_than)

    def finish(self, timeout_s: float = 40) -> None:
        for rank in self.ranks:
            self.said += rank.communicate(timeout=timeout_s)[1]
        self.ended_at = time.time()
        self.codes = [rank.returncode for rank in self.ranks]
        time.sleep(0.5)
        self.left = [int(path.name) for path in Path("/proc").glob("[0-9]*") if lies_in(path, self.folder)]

    @property
    def alarm(self):
        return read_alarm(self.folder)

    def record(self, rank: int):
        return read_record(self.folder, rank)

    def bound_s(self) -> float:
        """Twice the slowest recent step and 10 s."""
        return 2 * max(self.record(rank).slowest_step_s for rank in range(len(self.ranks))) + 10

    def named_after_s(self) -> float:
        """From the fault to the alarm."""
        fault_at = self.fault_at or float(next(line for line in self.said.splitlines() if " at " in line).split()[-1])
        return (self.folder / "blackbox/alarm.json").stat().st_mtime - fault_at


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def lies_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder
    except OSError:
        return False


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All at the same time: they mostly wait."""
    place = tmp_path_factory.mktemp("observed").resolve()
    made = {name: Run(place / name, world, steps, faults) for name, (world, steps, faults) in {
        "stopped": (2, ENDLESS, {}),
        "stopped_alone": (1, ENDLESS, {}),
        "native": (3, ENDLESS, {2: ["native@step:21"]}),
        "collective": (2, ENDLESS, {0: ["waits@step:21"], 1: ["waits@step:21"]}),
        "lost": (2, ENDLESS, {}),
        "killed": (2, ENDLESS, {1: ["kill@step:21"]}),
        "ctrl_z": (2, 120, {1: ["rests@step:40"]}),
        "slow_data": (2, 30, {1: ["sleep=15@data:25"]}),
        "long_first_step": (2, 15, {0: ["sleep=11@step:1"]}),
        "long_validation": (2, 15, {1: ["sleep=11@validation:10"]}),
        "long_save": (2, 15, {0: ["sleep=11@saving:10"]}),
        "taken_over": (1, ENDLESS, {}),
    }.items()}
    for name in ("stopped", "stopped_alone", "lost", "ctrl_z", "taken_over"):
        made[name].until_steps(10)
    while not (made["ctrl_z"].folder / "rests").exists():
        time.sleep(0.02)
    time.sleep(1.0)  # in the middle of it
    for name, rank in (("stopped", 1), ("stopped_alone", 0), ("lost", 1)):
        os.kill(made[name].ranks[rank].pid, signal.SIGSTOP)
        if name == "lost":  # a rank that is stopped starts no other one
            os.kill(made[name].observer_of(rank), signal.SIGKILL)
        made[name].fault_at = time.time()
    os.killpg(made["ctrl_z"].group, signal.SIGTSTP)
    clear(made["taken_over"].folder)
    (made["taken_over"].folder / "blackbox/rank_00000.json").write_text("{}")
    stopped_at = time.time()
    made["lost"].ranks[0].wait(timeout=40)
    made["lost"].ranks[1].kill()  # nobody there could
    time.sleep(max(0.0, stopped_at + 12 - time.time()))
    os.killpg(made["ctrl_z"].group, signal.SIGCONT)
    for run in made.values():
        run.finish()
    yield made
    for run in made.values():
        for rank in run.ranks:
            rank.kill()


def test_a_stopped_rank_is_named_by_its_state_and_all_ranks_end(runs):
    run = runs["stopped"]
    assert (run.alarm.kind, run.alarm.rank, run.alarm.pid) == ("stopped", 1, run.ranks[1].pid)
    assert 7 < run.named_after_s() < run.bound_s()
    assert run.codes == [-9, -9] and run.left == []
    assert run.said.count("is stopped (as by SIGSTOP)") == 1
    assert "toy_rank.py" in stack_path(run.folder, 0).read_text()  # the one that waits shows where
    assert "no stack" in stack_path(run.folder, 1).read_text()
    assert run.record(1).process_state == "T" and "ended by its observer" in run.record(0).gone["words"]


def test_a_rank_alone_has_an_observer_too(runs):
    run = runs["stopped_alone"]
    assert (run.alarm.kind, run.alarm.rank) == ("stopped", 0)
    assert run.codes == [-9] and run.left == [] and run.named_after_s() < run.bound_s()


def test_a_rank_in_native_code_is_named_and_shows_its_stack_though_it_holds_the_lock(runs):
    run = runs["native"]
    assert (run.alarm.kind, run.alarm.rank, run.alarm.step, run.alarm.phase) == ("stuck", 2, 20, "step")
    assert run.named_after_s() < run.bound_s()
    assert run.codes == [-9, -9, -9] and run.left == []
    assert "in fail" in stack_path(run.folder, 2).read_text()
    assert "in meet" in stack_path(run.folder, 0).read_text() and "in meet" in stack_path(run.folder, 1).read_text()


def test_where_nobody_is_behind_all_are_named(runs):
    run = runs["collective"]
    assert (run.alarm.kind, run.alarm.rank) == ("stuck", None) and run.codes == [-9, -9]
    assert "all 2 ranks have been stuck in a collective (all_reduce)" in run.said
    assert all("in fail" in stack_path(run.folder, rank).read_text() for rank in (0, 1))


def test_a_rank_whose_observer_is_silent_is_lost(runs):
    run = runs["lost"]
    assert (run.alarm.kind, run.alarm.rank) == ("lost", 1) and run.codes == [-9, -9]
    assert run.named_after_s() < run.bound_s()


def test_a_killed_rank_is_gone_without_a_word_and_nobody_waits_for_it(runs):
    run = runs["killed"]
    assert run.record(1).gone["words"].startswith("vanished without a word") and run.record(1).ending is None
    assert (run.alarm.kind, run.alarm.rank) == ("lost", 1) and run.codes == [-9, -9] and run.left == []


def test_ctrl_z_and_fg_are_no_alarm(runs):
    run = runs["ctrl_z"]
    assert run.alarm is None and run.codes == [0, 0] and "dstrain:" not in run.said and run.left == []
    assert run.record(0).ending["cause"] == run.record(1).ending["cause"] == "finished"
    assert run.record(0).step == 120


def test_slow_data_are_named_and_the_run_goes_on(runs):
    run = runs["slow_data"]
    assert run.alarm is None and run.codes == [0, 0]
    assert run.said.count("dstrain: rank 1 on ") == 1 and "waiting for the rows of step 25" in run.said
    assert "the run goes on" in run.said


@pytest.mark.parametrize("name", ["long_first_step", "long_validation", "long_save"])
def test_what_may_take_long_is_no_alarm_and_is_not_named(runs, name):
    run = runs[name]
    assert run.alarm is None and run.codes == [0, 0] and "dstrain:" not in run.said, run.said


def test_a_rank_left_over_from_an_earlier_attempt_is_ended(runs):
    run = runs["taken_over"]
    assert run.codes == [-9] and "left over from an earlier one" in run.said and run.left == []


def test_a_killed_observer_is_replaced_and_the_next_one_sees_the_end(tmp_path):
    run = Run(tmp_path / "run", 1, ENDLESS, {})
    run.until_steps(5)
    before, first = run.record(0), run.observer_of(0)
    os.kill(first, signal.SIGKILL)
    deadline = time.time() + 10
    while run.record(0).step <= before.step + 20:
        assert time.time() < deadline, "nobody writes down how the rank is"
        time.sleep(0.05)
    assert run.observer_of(0) != first
    now = run.record(0)
    assert (now.started, now.attempt, now.pid) == (before.started, before.attempt, before.pid)
    run.ranks[0].kill()
    run.finish()
    assert run.record(0).gone["words"].startswith("vanished") and run.left == []
    assert run.said.count("was killed; another one watches this rank from now on") == run.said.count("\n") == 1


def test_a_rank_that_nobody_watches_says_so_once_and_writes_its_last_record_itself(tmp_path):
    run = Run(tmp_path / "run", 1, 150, {})
    run.until_steps(5)
    first = run.observer_of(0)
    os.kill(first, signal.SIGKILL)
    deadline = time.time() + 10
    while (second := run.observer_of(0, first)) == first:
        assert time.time() < deadline
        time.sleep(0.05)
    os.kill(second, signal.SIGKILL)
    run.finish()
    record = run.record(0)
    assert (run.codes, record.step, record.phase, record.ending["cause"]) == ([0], 150, "leaving", "finished")
    assert run.said.count("from now on nobody watches this rank") == 1 and run.said.count("\n") == 2


def test_in_a_run_folder_that_was_moved_the_ranks_end_is_told(tmp_path):
    run = Run(tmp_path / "run", 1, 60, {})
    run.until_steps(5)
    run.folder.rename(tmp_path / "moved")
    run.folder = tmp_path / "moved"
    run.finish()
    assert run.record(0).gone or run.record(0).ending["cause"] == "error"  # it could not meet there any more


def test_an_observer_ends_with_its_rank_alone_and_its_readers_do_not_wait(tmp_path):
    run = Run(tmp_path / "run", 1, ENDLESS, {})
    run.until_steps(5)
    observer = run.observer_of(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT):
        os.kill(observer, number)
    time.sleep(0.2)
    assert parent_of(observer) == run.ranks[0].pid
    files = sorted(os.readlink(path) for path in Path(f"/proc/{observer}/fd").iterdir())
    assert not [file for file in files if "socket" in file or file.endswith(".lock")]
    run.ranks[0].kill()
    killed_at = time.time()
    run.ranks[0].stderr.read()  # to its end: until nobody has the pipe open
    assert time.time() - killed_at < 0.5
    run.finish()
    assert run.left == []

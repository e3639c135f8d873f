"""A requeued Slurm job and an earlier start of itself that still lives: the earlier one leaves, or is shut out.

The earlier one is stopped where it hurts most and continued when the later one is done: with its observer killed, so
that nothing but the fence keeps it from publishing at first.
"""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import time
from pathlib import Path

import pytest
from bad_places import before_call
from forked_commands import Ended, Started, command
from small_run import lay_out
from test_folder_lock import take_locks_away

from dstrain.config.errors import Trouble, UserError
from dstrain.config.load import load_recipe
from dstrain.doctor.proofs.resume import compare_runs
from dstrain.guard.lock_record import holder, is_earlier_start, myself
from dstrain.guard.machine import process_state
from dstrain.runtime.checkpoint.fence import Fence
from dstrain.runtime.checkpoint.folder import bring_back, point
from dstrain.train import folder_lock
from dstrain.train.folder_lock import FolderLock
from dstrain.train.run_folder import Footing, RunFolder

TRAIN = ["train", "small.yaml", "run.steps=12", "checkpoint.keep=99"]
NEVER_ENDS = ["train", "small.yaml", "run.steps=100000", "schedule.name=WarmupLR"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Beside the recipe: straight, the run that nothing disturbed."""
    place = lay_out(tmp_path_factory.mktemp("places"))
    assert command(place, *TRAIN, "run.dir=straight").codes == [0]
    return place


def start_of(job: str, restart: int) -> dict[str, str]:
    """Slurm's words to start number restart + 1 of a job; at the first one it says nothing of restarts."""
    return {"SLURM_JOB_ID": job} | ({"SLURM_RESTART_COUNT": str(restart)} if restart else {})


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_earlier_start_leaves_within_a_step_and_publishes_nothing_more(tmp_path, ranks):
    place = lay_out(tmp_path)
    earlier = Started(place, NEVER_ENDS, ranks, environment=start_of("4711", 0))
    earlier.waits_for("saved")
    later = Started(place, NEVER_ENDS, environment=start_of("4711", 1),
                    before=functools.partial(before_call, "dstrain.train.trainer:loop", 1, leave, 0))
    began = time.monotonic()
    gone = earlier.ended()
    took_s = time.monotonic() - began
    assert gone.codes == [1] * ranks and gone.errors.count("\n") == 1, gone
    assert f"a later start of this Slurm job (process {later.processes[0].pid} on " in gone.errors
    assert "this one leaves the folder to it, and publishes nothing more" in gone.errors
    ended = later.ended()
    assert ended.codes == [75] and "goes on from runs/small/checkpoints/step_" in ended.out, ended
    assert "is still held by an earlier start of this Slurm job, process" in ended.errors
    assert "it has left: this start goes on" in ended.errors and took_s < folder_lock.LEAVES_WITHIN_S / 2
    records = [path for path in (place / "runs/small").iterdir() if path.name.startswith(".lock")]
    assert [path.name for path in records] == [".lock"] and "asked_by" not in holder(place / "runs/small")


def leave() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


SAVE = "dstrain.runtime.checkpoint.disk:rename"


@pytest.mark.parametrize("where, at, locks", [
    (SAVE, 3, True), (SAVE, 3, False),                                # checked, about to publish its second checkpoint
    (SAVE, 4, True),                                                  # and about to point to it
    ("dstrain.runtime.checkpoint.disk:make_folder", 4, False),        # about to begin a save
    ("dstrain.train.trainer:train_step", 5, True),
])
def test_a_start_that_was_stopped_and_is_continued_after_another_went_on_changes_nothing(place, tmp_path, where, at,
                                                                                         locks):
    command_line = [*TRAIN, f"run.dir={tmp_path}", "checkpoint.background=false"]
    earlier = Started(place, command_line, environment=start_of("4711", 0),
                      before=functools.partial(prepared, locks, where, at))
    pid = earlier.processes[0].pid
    wait_until(lambda: process_state(pid) == "T")
    for observer in children(pid):
        os.kill(observer, signal.SIGKILL)
    later = command(place, *command_line, environment=start_of("4711", 1),
                    before=functools.partial(prepared, locks, "", 0))
    assert later.codes == [0], later
    if locks:
        assert "it did not leave within 1 s: this start takes" in later.errors
    before = contents(tmp_path / "small")
    assert process_state(pid) == "T"
    os.kill(pid, signal.SIGCONT)
    ended = earlier.ended()
    assert ended.codes in ([1], [-signal.SIGKILL]), ended  # by itself, or by its observer's hand, which was made anew
    assert contents(tmp_path / "small") == before
    assert_undisturbed(place, tmp_path / "small")
    again = command(place, *command_line)  # nothing is left that would keep others out, or be taken for unfinished
    assert again.codes == [0] and "finished already" in again.out, again


def prepared(locks: bool, where: str, at: int, rank: int) -> None:
    folder_lock.LEAVES_WITHIN_S = 1.0
    if not locks:
        take_locks_away()
    if where:
        before_call(where, at, lambda: os.kill(os.getpid(), signal.SIGSTOP), 0, rank)


def assert_undisturbed(place: Path, folder: Path) -> None:
    differences, compared = compare_runs(place / "straight", folder.parent, load_recipe(str(place / "small.yaml")))
    assert differences == [] and compared >= 30


def contents(folder: Path) -> dict[str, str]:
    """Every file but the observers' own."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and "blackbox" not in path.parts}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_job_another_user_or_the_same_start_is_refused_as_ever(place, tmp_path):
    earlier = Started(place, [*NEVER_ENDS, f"run.dir={tmp_path}"], environment=start_of("4711", 1))
    earlier.waits_for("saved")
    for environment in (start_of("4712", 2), start_of("4711", 1), start_of("4711", 0), {}):
        refused = command(place, *NEVER_ENDS, f"run.dir={tmp_path}", environment=environment)
        assert refused.codes == [2] and "is being trained by process" in refused.errors, refused
    os.kill(earlier.processes[0].pid, signal.SIGTERM)
    assert earlier.ended().codes == [75]


@pytest.mark.parametrize("changed, is_it", [
    ({}, True), ({"slurm_restart": 2}, False), ({"slurm_restart": 3}, False), ({"slurm_job": "4712"}, False),
    ({"slurm_job": None}, False), ({"user": "ann"}, False), ({"slurm_cluster": "other"}, False),
    ({"slurm_restart": None}, False)])
def test_an_earlier_start_is_of_the_same_job_user_and_cluster(monkeypatch, changed, is_it):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    mine = myself()
    assert mine["attempt"] != myself()["attempt"]
    assert is_earlier_start({**mine, "slurm_restart": 1, **changed}, mine) == is_it
    assert not is_earlier_start({}, mine)
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not is_earlier_start({**mine, "slurm_job": None, "slurm_restart": 1}, myself())


def test_after_a_takeover_the_lock_is_the_later_starts_and_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "LEAVES_WITHIN_S", 0.3)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    earlier = FolderLock(tmp_path)
    earlier_footing = Footing(RunFolder(tmp_path), earlier)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    later = FolderLock(tmp_path)
    with pytest.raises(Trouble, match="by now: this run leaves the folder to it"):
        earlier_footing.check()
    Footing(RunFolder(tmp_path), later).check()
    earlier.close()
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(UserError, match="is being trained by"):
        FolderLock(tmp_path)
    later.close()
    FolderLock(tmp_path).close()


def test_a_pointer_of_an_earlier_start_is_refused_or_swept_away(tmp_path):
    """Checked before the later start came, or after."""
    def later_start_comes() -> None:
        bring_back(tmp_path, print)

    def is_replaced() -> None:
        raise Trouble("another start's by now")

    point(tmp_path, "latest", "step_00000009")
    with pytest.raises(FileNotFoundError):
        point(tmp_path, "latest", "step_00000004", Fence("old", later_start_comes))
    with pytest.raises(Trouble):
        point(tmp_path, "latest", "step_00000004", Fence("old", is_replaced))
    assert (tmp_path / "latest").read_text() == "step_00000009\n"
    assert [path.name for path in tmp_path.iterdir() if path.name != "latest"] == [".making_latest.old"]

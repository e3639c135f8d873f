"""Two runs in one folder: one trains, the other is told who does; nothing that has ended bars a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import pytest
from bad_places import before_call
from forked_commands import Started, command
from small_run import lay_out

from dstrain.config.errors import Trouble, UserError
from dstrain.train.folder_lock import FolderLock, holder
from dstrain.train.run_folder import RunFolder

TRIES = 20
forks = multiprocessing.get_context("fork")


def test_the_second_of_two_runs_is_told_who_trains_and_whoever_only_reads_is_not_barred(tmp_path):
    place = lay_out(tmp_path)
    first = Started(place, ["train", "small.yaml", "run.steps=100000", "schedule.name=WarmupLR"],
                    environment={"SLURM_JOB_ID": "4711"})
    first.waits_for("saved")
    pid = first.processes[0].pid
    for ranks in (1, 2):
        second = command(place, "train", "small.yaml", ranks=ranks)
        assert second.codes == [2] * ranks and second.errors.count("\n") == 1
        assert f"runs/small is being trained by process {pid} on {socket.gethostname()} (user " in second.errors
        assert ", Slurm job 4711: dstrain train small.yaml run.steps=100000" in second.errors
        assert "wait for it, stop it, or choose another run.name" in second.errors
    beside = [Started(place, arguments) for arguments in (
        ["eval", "runs/small"], ["generate", "runs/small", "--max-new-tokens", "2"],
        ["replay", "runs/small", "--step", "2"], ["verify", "runs/small"])]
    assert [reader.ended().codes for reader in beside] == [[0]] * 4
    os.kill(pid, signal.SIGKILL)
    assert first.ended().codes == [-signal.SIGKILL]
    after = command(place, "train", "small.yaml", "run.steps=100000", "schedule.name=WarmupLR",
                    before=partial(before_call, "dstrain.train.trainer:loop", 1, leave, 0))
    assert "goes on from" in after.out and "being trained" not in after.errors and after.codes == [75]


def leave() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_of_two_starts_at_the_same_instant_exactly_one_trains(tmp_path):
    """20 tries; the one that is refused names the one that trains, not whoever trained here before."""
    for _ in range(TRIES):
        go, said = forks.Event(), forks.Queue()
        both = [forks.Process(target=try_to_lock, args=(tmp_path, go, said)) for _ in range(2)]
        for process in both:
            process.start()
        go.set()
        found = dict(said.get(timeout=20) for _ in both)
        for process in both:
            process.join()
        winner = [pid for pid, refused in found.items() if refused is None]
        refusals = [refused for refused in found.values() if refused is not None]
        assert len(winner) == len(refusals) == 1 and f"by process {winner[0]} on" in refusals[0]


def try_to_lock(folder: Path, go, said) -> None:
    go.wait()
    try:
        lock = FolderLock(folder)
    except UserError as refused:
        said.put((os.getpid(), str(refused)))
    else:
        said.put((os.getpid(), None))
        time.sleep(0.6)  # trains while the other asks
        lock.close()


def test_a_child_that_outlives_the_run_does_not_go_on_holding_the_lock(tmp_path):
    """Neither one that was forked nor one that was executed; nor does a run that is killed."""
    inside, outside = forks.Pipe()
    run = forks.Process(target=lock_and_leave_children, args=(tmp_path, outside))
    run.start()
    children = inside.recv()
    with pytest.raises(UserError, match=f"being trained by process {run.pid}"):
        FolderLock(tmp_path)
    run.kill()
    run.join()
    FolderLock(tmp_path).close()
    for child in children:
        os.kill(child, 0)  # it is still there
        os.kill(child, signal.SIGKILL)


def lock_and_leave_children(folder: Path, pipe) -> None:
    lock = FolderLock(folder)
    forked = os.fork()
    if forked == 0:
        time.sleep(60)
        os._exit(0)
    pipe.send([forked, os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "60"])])
    time.sleep(60)
    lock.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_lock_is_said_and_not_taken_for_a_run(tmp_path, monkeypatch, number):
    def cannot(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", cannot)
    lock = FolderLock(tmp_path)
    assert "cannot lock files" in lock.warning and "see to it that there is one only" in lock.warning
    with pytest.raises(UserError, match=f"being trained by process {os.getpid()} on"):  # the same machine: it lives
        FolderLock(tmp_path)
    lock.close()
    mine = holder(tmp_path)
    for gone in ({"started": mine["started"] - 1}, {"boot": "another machine", "host": "node7"}):
        (tmp_path / ".lock").write_text(json.dumps({**mine, **gone}))
        lock = FolderLock(tmp_path)
        assert f"the last one was process {os.getpid()} on {gone.get('host', mine['host'])}" in lock.warning
        lock.close()
    (tmp_path / ".lock").write_text("process 12 on a machine of an older dstrain")
    FolderLock(tmp_path).close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_a_lock_that_fails_for_another_reason_is_trouble(tmp_path, monkeypatch, number):
    def breaks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", breaks)
    with pytest.raises(Trouble, match="cannot use the run folder"):
        RunFolder(tmp_path).lock()
    monkeypatch.undo()
    RunFolder(tmp_path).lock().close()


def test_without_locks_the_run_that_was_there_first_leaves_when_another_comes(tmp_path):
    """As two machines would do it that share a file system without locks."""
    place = lay_out(tmp_path)
    without_locks = partial(before_call, "dstrain.train.run_folder:RunFolder.lock", 1, take_locks_away, 0)
    first = Started(place, ["train", "small.yaml", "run.steps=100000", "schedule.name=WarmupLR"], before=without_locks)
    first.waits_for("saved")
    record = holder(place / "runs/small")
    (place / "runs/small/.lock").write_text(json.dumps({**record, "pid": 7, "host": "node8"}))
    ended = first.ended()
    assert ended.codes == [1]
    warning, reason, end = ended.errors.split("\n")
    assert "cannot lock files" in warning and end == ""
    assert "is being trained by process 7 on node8" in reason and "this run leaves the folder to it" in reason


def take_locks_away() -> None:
    def cannot(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = cannot

"""Checkpoints out of reach, unreadable or under a wrong name: nothing is lost, and nothing begins in silence."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
from forked_commands import Ended, command
from small_run import lay_out

NEWEST, BEFORE = "step_00000006", "step_00000004"


def more(place: Path, **options) -> Ended:
    return command(place, "train", "small.yaml", "run.steps=8", **options)


def everything(place: Path) -> dict[str, bytes]:
    """All that a run has, but for the marks of who is at it."""
    run = place / "runs/small"
    names = [path for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "endings.jsonl")
             and "blackbox" not in path.parts]
    return {str(path.relative_to(run)): path.read_bytes() for path in names}


def leads_nowhere(checkpoints: Path) -> None:
    checkpoints.symlink_to("/no/such/disk")


def is_a_file(checkpoints: Path) -> None:
    checkpoints.write_text("")


def is_empty(checkpoints: Path) -> None:
    checkpoints.mkdir()


@pytest.mark.parametrize("replaced, said", [
    (leads_nowhere, "is a link to /no/such/disk, which is not there"), (is_a_file, "must be a folder"),
    (is_empty, "holds no checkpoint any more"), (lambda _: None, "holds no checkpoint any more")])
def test_a_run_that_lost_its_checkpoints_does_not_begin_again_in_silence(place, replaced, said):
    checkpoints, away = place / "runs/small/checkpoints", place / "away"
    checkpoints.rename(away)
    replaced(checkpoints)
    before = everything(place)
    refused = more(place)
    assert refused.codes == [2] and refused.errors.count("\n") == 1, refused.errors
    assert said in refused.errors and "--fresh" in refused.errors
    assert everything(place) == before
    if checkpoints.is_dir():
        checkpoints.rmdir()
    else:
        checkpoints.unlink(missing_ok=True)
    away.rename(checkpoints)
    assert "goes on from runs/small/checkpoints/step_00000006" in more(place).out


def test_fresh_begins_again_where_the_checkpoints_were_lost_and_keeps_a_link_to_another_disk(place):
    checkpoints, disk = place / "runs/small/checkpoints", place / "disk"
    shutil.rmtree(checkpoints)
    disk.mkdir()
    checkpoints.symlink_to(disk)
    begun = command(place, "train", "small.yaml", "--fresh", "--yes")
    assert begun.codes == [0], begun.errors
    assert checkpoints.is_symlink() and (disk / NEWEST).is_dir()


def fails_to_read(name: str, times: int, of_rank: int, rank: int) -> None:
    """The disk's own error, at the next reads of files below `name`."""
    read, left = os.preadv, [times]

    def preadv(file: int, *arguments):
        if left[0] > 0 and f"/{name}/" in os.readlink(f"/proc/self/fd/{file}"):
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(file, *arguments)

    if rank == of_rank:
        os.preadv = preadv


def test_a_disk_that_fails_for_a_moment_costs_no_checkpoint(place):
    done = more(place, ranks=2, before=partial(fails_to_read, NEWEST, 1, 1))
    assert done.codes == [0, 0], done.errors
    assert f"goes on from runs/small/checkpoints/{NEWEST}" in done.out and "damaged" not in done.out + done.errors


def test_what_cannot_be_read_is_not_taken_for_damaged(place):
    before = everything(place)
    ended = more(place, ranks=2, before=partial(fails_to_read, NEWEST, 10**9, 1))
    assert ended.codes == [1, 1] and ended.errors.count("\n") == 1, ended.errors
    assert "Input/output error" in ended.errors and "It may be good" in ended.errors and "--fresh" not in ended.errors
    assert everything(place) == before
    assert f"goes on from runs/small/checkpoints/{NEWEST}" in more(place).out


def test_a_checkpoint_under_the_name_of_another_step_is_not_gone_on_from(place):
    checkpoints = place / "runs/small/checkpoints"
    shutil.rmtree(checkpoints / BEFORE)
    (checkpoints / NEWEST).rename(checkpoints / "step_00000007")
    refused = more(place)
    assert refused.codes == [2] and "it is of step 6" in refused.out + refused.errors
    assert (checkpoints / "step_00000007").is_dir()
    verified = command(place, "verify", "runs/small")
    assert verified.codes == [1] and "it is of step 6" in verified.out
    (checkpoints / "step_00000007").rename(checkpoints / NEWEST)
    assert f"goes on from runs/small/checkpoints/{NEWEST}" in more(place).out


def has_a_stale_handle(of_rank: int, rank: int) -> None:
    """What a network disk says of a folder to a writer's thread that first looks at it after a commit."""
    look, of_before = os.stat, set()

    def stat(path, *arguments, **named):
        writer = threading.current_thread()
        if str(path).endswith("checkpoints") and writer.name == "saver" and writer not in of_before:
            if not os.path.exists(f"{path}/latest"):
                of_before.add(writer)
                return look(path, *arguments, **named)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return look(path, *arguments, **named)

    if rank == of_rank:
        os.stat = stat


def test_a_stale_folder_in_the_writers_thread_ends_all_ranks(tmp_path):
    place = lay_out(tmp_path)
    ended = command(place, "train", "small.yaml", "run.steps=100000", "schedule.name=WarmupLR", ranks=2,
                    before=partial(has_a_stale_handle, 0))
    assert ended.codes == [1, 1], ended.errors
    assert "Stale file handle" in ended.errors and ended.errors.count("\n") == 1


def has_no_threads_left(rank: int) -> None:
    start = threading.Thread.start

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "saver":
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = refuses


def test_a_writer_that_cannot_be_started_is_said(tmp_path):
    ended = command(lay_out(tmp_path), "train", "small.yaml", before=has_no_threads_left)
    assert ended.codes == [1] and "can't start new thread; allow more processes" in ended.errors, ended.errors


@pytest.mark.parametrize("harm, said", [
    (lambda run: (run / "metrics.jsonl").open("a").write("5\n"), "is not a record"),
    (lambda run: (run / "ledger.jsonl").open("a").write('{"a": 1}\n'), "a line without its step"),
    (lambda run: ((run / "checkpoints/latest").unlink(), (run / "checkpoints/latest").mkdir()), "latest")])
def test_odd_things_in_a_run_folder_are_told_in_a_line(place, harm, said):
    harm(place / "runs/small")
    ended = more(place)
    assert ended.codes[0] in (1, 2) and said in ended.errors and ended.errors.count("\n") == 1, ended.errors

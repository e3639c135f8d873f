"""Killed, or met by an error, before any operation of a save on the disk: a committed checkpoint is there, always."""

from __future__ import annotations

import errno
import os

import pytest
from test_checkpoint_bytes import side_files, snapshot

from dstrain.config.errors import Trouble
from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.folder import bring_back, committed, newest_good, step_of
from dstrain.runtime.checkpoint.manifest import WEIGHTS_FILE, verify
from dstrain.runtime.checkpoint.saving import write
from dstrain.runtime.checkpoint.tensor_file import TensorFile
from dstrain.runtime.dist import lone_rank

OPERATIONS = ("make_folder", "create_file", "write_at", "write_file", "sync_file", "sync_folder", "rename", "read_at",
              "remove_tree", "replace_with")


def filling(folder) -> float:
    """Which of the two saves of one step this is."""
    return float(TensorFile(folder / WEIGHTS_FILE).tensor("b")[0])


def break_call(number, act):
    """Before the operation of this number `act` is called; says how many there were."""
    calls = []

    def broken(inner):
        def operation(*arguments, **named):
            calls.append(inner.__name__)
            if len(calls) == number:
                act()
            return inner(*arguments, **named)
        return operation

    kept = {name: getattr(disk, name) for name in OPERATIONS}
    for name, inner in kept.items():
        setattr(disk, name, broken(inner))
    return calls, kept


def put_back(kept):
    for name, inner in kept.items():
        setattr(disk, name, inner)


def save(folder, step, fill):
    return write(folder, snapshot(step, fill), side_files, lone_rank())


def operations_of_a_replacement(folder) -> int:
    save(folder, 6, 1.0)
    calls, kept = break_call(0, None)
    save(folder, 6, 2.0)
    put_back(kept)
    assert filling(folder / "step_00000006") == 2.0 and {"rename", "remove_tree", "read_at"} <= set(calls)
    return len(calls)


def test_killed_before_any_operation_of_a_replacement_one_of_the_two_is_there(tmp_path):
    found = set()
    number_of_calls = operations_of_a_replacement(tmp_path / "count")
    for number in range(1, number_of_calls + 1):
        folder = tmp_path / str(number)
        save(folder, 6, 1.0)
        child = os.fork()
        if child == 0:
            break_call(number, lambda: os._exit(9))
            save(folder, 6, 2.0)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, f"operation {number}"

        good = newest_good(folder, lone_rank(), print)  # a reader, before anybody tidies
        assert good is not None and step_of(good) == 6, f"operation {number}"
        found.add((filling(good), good.name))
        save(folder, 8, 3.0)  # a save that follows keeps it
        assert [path.name for path in committed(folder)] == ["step_00000006", "step_00000008"]
        assert all(verify(path) is None for path in committed(folder)), f"operation {number}"
        assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_00000006", "step_00000008"]
    assert number_of_calls > 30
    assert found == {(1.0, "step_00000006"), (1.0, ".replaced_step_00000006"), (2.0, "step_00000006")}


def test_an_error_at_any_operation_of_a_replacement_ends_the_save_in_a_line_or_not_at_all(tmp_path):
    ended = 0
    for number in range(1, operations_of_a_replacement(tmp_path / "count") + 1):
        folder = tmp_path / str(number)
        save(folder, 6, 1.0)
        calls, kept = break_call(number, fail)
        try:
            save(folder, 6, 2.0)
        except Trouble as trouble:
            ended += 1
            assert "No space left on device" in str(trouble) and "free" in str(trouble), trouble
            assert "\n" not in str(trouble) and "make room" in str(trouble)
        finally:
            put_back(kept)
        good = newest_good(folder, lone_rank(), print)
        assert good.name == "step_00000006" and not list(folder.glob(".making*")), f"operation {number}: {calls[-1]}"
        save(folder, 6, 3.0)
        assert filling(folder / "step_00000006") == 3.0 and not list(folder.glob(".re*"))
    assert ended > 25


def fail():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_does_not_fit_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    save(tmp_path, 6, 1.0)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 100)
    with pytest.raises(Trouble, match=r"needs \d+ bytes, and .* has 100 bytes free; make room") as refused:
        save(tmp_path, 8, 1.0)
    assert "step_00000008" in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000006"]


def test_what_cannot_be_removed_is_said_and_the_save_goes_on(tmp_path, monkeypatch):
    (tmp_path / ".making_step_00000002").mkdir()
    lines = []

    def refuse(folder):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk, "remove_tree", refuse)
    write(tmp_path, snapshot(6), side_files, lone_rank(), lines.append)
    assert verify(tmp_path / "step_00000006") is None
    assert any(".making_step_00000002 could not be removed: Permission denied" in line for line in lines)


def test_a_write_that_takes_less_than_it_was_given_is_gone_on_with(tmp_path, monkeypatch):
    inner = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: inner(file, data[:7], offset))
    assert verify(save(tmp_path, 6, 1.0)) is None


def test_bring_back_prefers_what_was_published(tmp_path):
    save(tmp_path, 6, 2.0)
    (tmp_path / "step_00000006").rename(tmp_path / ".replaced_step_00000006")
    assert [path.name for path in committed(tmp_path)] == [".replaced_step_00000006"]
    bring_back(tmp_path, print)
    assert [path.name for path in committed(tmp_path)] == ["step_00000006"]

"""Killed at the worst instants of a save or of going on: the next call ends in the run that was never killed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_run import environment, lay_out

from dstrain.config.load import load_recipe
from dstrain.doctor.proofs.resume import compare_runs
from dstrain.runtime.checkpoint.folder import committed
from dstrain.runtime.checkpoint.manifest import verify
from dstrain.runtime.dist import free_port

# Dies, as by kill -9, just before call number `at` of a function of the production code.
KILLER = """
import os, sys
import dstrain.runtime.checkpoint.disk as disk
import dstrain.runtime.checkpoint.saver as saver
import dstrain.runtime.checkpoint.saving as saving
import dstrain.train.run_folder as run_folder
from dstrain.__main__ import main

owner = {"disk": disk, "saver": saver, "saving": saving, "run_folder": run_folder}[sys.argv[1]]
name, at = sys.argv[2], int(sys.argv[3])
inner, calls = getattr(owner, name), []

def deadly(*arguments, **named):
    calls.append(name)
    if len(calls) == at:
        os._exit(9)
    return inner(*arguments, **named)

setattr(owner, name, deadly)
sys.exit(main(["train", "small.yaml", *sys.argv[4:]]))
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    place = lay_out(tmp_path_factory.mktemp("straight"))
    done = python(place, "-m", "dstrain", "train", "small.yaml", "run.dir=straight", "checkpoint.keep=99")
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("module, function, at", [
    ("saving", "create", 2),           # while the second file of the first checkpoint is laid out
    ("saving", "write_ranges", 5),     # in the middle of the second checkpoint's tensors
    ("saving", "hashes", 2),           # all written, no manifest yet
    ("disk", "rename", 3),             # the manifest is there, the rename is not
    ("disk", "rename", 4),             # published, but `latest` still names the one before
    ("saver", "prune", 2),            # pointers set, old ones not removed
])
def test_killed_while_saving(straight, module, function, at):
    name = f"run.dir={function}{at}"
    killed = python(straight, "-c", KILLER, module, function, str(at), name, "checkpoint.keep=99")
    assert killed.returncode == 9, killed.stderr
    again = python(straight, "-m", "dstrain", "train", "small.yaml", name, "checkpoint.keep=99")
    assert again.returncode == 0, again.stderr
    assert_same_run(straight, f"{function}{at}")


@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_the_side_files_are_cut(straight, at):
    name = f"run.dir=cut{at}"
    assert python(straight, "-c", KILLER, "saving", "hashes", "2", name, "checkpoint.keep=99").returncode == 9
    killed = python(straight, "-c", KILLER, "run_folder", "_keep_lines", str(at), name, "checkpoint.keep=99")
    assert killed.returncode == 9, killed.stderr
    assert python(straight, "-m", "dstrain", "train", "small.yaml", name, "checkpoint.keep=99").returncode == 0
    assert_same_run(straight, f"cut{at}")


def test_a_rank_killed_in_its_writer_hangs_no_other_rank_and_nothing_committed_is_lost(straight):
    ends = two_ranks(straight, ["-c", KILLER, "disk", "write_at"], [10**6, 60], "run.dir=writer")
    assert ends[1].returncode == 9 and ends[0].returncode == 1, ends[0].stderr
    assert "another rank is gone" in ends[0].stderr and "Traceback" not in ends[0].stderr
    folder = straight / "writer/small/checkpoints"
    before = [path.name for path in committed(folder)]
    assert before in (["step_00000002"], ["step_00000002", "step_00000003"], ["step_00000002", "step_00000003",
                                                                              "step_00000004"])
    assert all(verify(folder / name) is None for name in before)
    again = two_ranks(straight, ["-m", "dstrain", "train", "small.yaml"], [], "run.dir=writer")
    assert [end.returncode for end in again] == [0, 0], again[0].stderr
    assert f"goes on from writer/small/checkpoints/{before[-1]}" in again[0].stdout
    assert verify(folder / "step_00000006") is None and not list(folder.glob(".*"))


def two_ranks(place, command: list[str], of_rank: list, *overrides: str) -> list[subprocess.CompletedProcess]:
    """The same command on two ranks; `of_rank`, where given, is one more argument for each."""
    port, ends = free_port(), []
    processes = [subprocess.Popen(
        [sys.executable, *command, *map(str, of_rank[rank:rank + 1]), *overrides, "checkpoint.keep=99"], cwd=place,
        env={**environment(), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) for rank in range(2)]
    try:
        for process in processes:
            out, err = process.communicate(timeout=100)
            ends.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return ends


def assert_same_run(place, folder: str) -> None:
    recipe = load_recipe(str(place / "small.yaml"))
    differences, compared = compare_runs(place / "straight", place / folder, recipe)
    assert differences == [] and compared > 20
    checkpoints = place / folder / recipe.run.name / "checkpoints"
    assert (checkpoints / "latest").read_text() == "step_00000006\n"
    assert (checkpoints / "best").read_text() == (place / "straight/small/checkpoints/best").read_text()
    assert not list(checkpoints.glob(".making*"))


def python(place, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=place, env=environment(), capture_output=True, text=True,
                          timeout=200, stdin=subprocess.DEVNULL)

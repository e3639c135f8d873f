"""slurm/*.sbatch: their directives, the commented places, and what each hands over to slurm/job.sh."""

from __future__ import annotations

import re

import pytest
from launch_stubs import ROOT, copy_of_the_scripts, run_script

SCRIPTS = sorted(path.name for path in (ROOT / "slurm").glob("*.sbatch"))
BODY = """#!/usr/bin/env bash
echo "$@"
env | grep -E '^(DSTRAIN|DS_ACCELERATOR)' || true
"""


@pytest.fixture
def repo(tmp_path):
    """With a body that says how it was called."""
    folder = copy_of_the_scripts(tmp_path / "repo")
    (folder / "slurm" / "job.sh").write_text(BODY)
    return folder


def start(repo, script, *arguments, **environment):
    """As Slurm does: a copy, from its own folder."""
    spool = repo.parent / "spool"
    spool.mkdir(exist_ok=True)
    (spool / "slurm_script").write_bytes((ROOT / "slurm" / script).read_bytes())
    given = {"SLURM_SUBMIT_DIR": str(repo), "SLURM_JOB_NAME": "dstrain", **environment}
    return run_script(["bash", str(spool / "slurm_script"), *arguments], spool, **given)


def directives_of(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", (ROOT / "slurm" / script).read_text(), re.M))


@pytest.mark.parametrize("script", SCRIPTS)
def test_directives_let_a_job_come_back_and_keep_its_log(script):
    directives = directives_of(script)
    assert "ntasks-per-node" not in directives  # with it, Slurm 22.05 gives a job of 2-4 nodes never more than 2
    assert "requeue" in directives
    assert directives["open-mode"] == "append"
    array = "array" in directives
    assert ({"%x", "%A", "%a", "%N"} if array else {"%x", "%j", "%N"}) == set(re.findall("%.", directives["output"]))
    assert directives["signal"].startswith("B:USR1@")


def test_a_chain_runs_one_job_at_a_time():
    assert directives_of("train_chain.sbatch")["array"].endswith("%1")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("place", ["module load", "apptainer exec", "enroot start", "HF_HUB_OFFLINE",
                                   "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA"])
def test_what_a_cluster_may_want_has_its_commented_place(script, place):
    lines = [line for line in (ROOT / "slurm" / script).read_text().splitlines() if place in line]
    assert lines and all(line.startswith("#") for line in lines)


@pytest.mark.parametrize("script, arguments, handed_on", [
    ("train.sbatch", ["quickstart", "a.b=[{x: 1 2}]"], "quickstart a.b=[{x: 1 2}]\n"),
    ("train_cpu.sbatch", ["quickstart"], "quickstart\nDS_ACCELERATOR=cpu\n"),
    ("train_chain.sbatch", ["quickstart"], "quickstart\nDSTRAIN_CHAIN=yes\n"),
    ("sweep.sbatch", ["optim.lr=1,2", "quickstart", "x=1"], "quickstart x=1\nDSTRAIN_SWEEP=optim.lr=1,2\n"),
])
def test_each_hands_over_to_the_body(repo, script, arguments, handed_on):
    done = start(repo, script, *arguments)
    assert (done.returncode, done.stdout) == (0, handed_on), done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_with_a_name_of_its_own_trains_in_the_folder_of_that_name_unless_told_otherwise(repo, script):
    first = ["optim.lr=1,2"] if script == "sweep.sbatch" else []
    done = start(repo, script, *first, "quickstart", "run.name=told", SLURM_JOB_NAME="mine")
    assert done.stdout.splitlines()[0] == "quickstart run.name=mine run.name=told"  # of two, the later one holds


@pytest.mark.parametrize("script", SCRIPTS)
def test_from_another_folder_the_remedy_is_said_in_one_line(repo, script):
    done = start(repo, script, "r", SLURM_SUBMIT_DIR="/")
    assert done.returncode == 2
    assert "is not the dstrain repository" in done.stderr and len(done.stderr.strip().splitlines()) == 1

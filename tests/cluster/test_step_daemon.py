"""Slurm's daemon of a step is killed on one node: for Slurm the job runs on, but all ranks save and leave."""

from __future__ import annotations

import time

import pytest

ENDS_WITHIN_S = 90.0
HIT_AT = 6


@pytest.mark.parametrize("launcher", ["deepspeed", "srun"])
def test_when_a_steps_daemon_is_killed_the_ranks_of_all_nodes_save_and_leave(runs, launcher):
    name = f"daemon-{launcher}"
    job = runs.cluster.sbatch(
        f"--job-name={name}", "--nodes=2", "--cpus-per-task=1", "slurm/train_cpu.sbatch", "small.yaml",
        "run.steps=1000000", "schedule.name=WarmupLR", "checkpoint.every=1000", "valid.every=100000",
        folder=runs.checkout, env={"DSTRAIN_LAUNCHER": launcher})
    runs.wait_for_step(name, job, HIT_AT)
    runs.cluster.on("n2", "pkill", "-KILL", "-f", rf"slurmstepd: \[{job}\.0\]")
    deadline = time.monotonic() + ENDS_WITHIN_S
    while any(runs.cluster.processes(node, r"^[^ ]*python.*launch/train\.py") for node in ("n1", "n2")):
        assert time.monotonic() < deadline, runs.log(name)
        time.sleep(0.2)
    assert runs.folder(name).checkpoints.joinpath("latest").read_text() == f"step_{runs.last_step(name):08d}\n"
    runs.cluster.on("ctl", "scancel", job)

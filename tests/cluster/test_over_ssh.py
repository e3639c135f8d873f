"""Over pdsh and ssh: a request reaches the ranks of all nodes, and none outlives what started it."""

from __future__ import annotations

import time

import pytest
from cluster_runs import STARTS_WITHIN_S

ENDS_WITHIN_S = 90.0
HIT_AT = 6


@pytest.fixture
def start(runs):
    """start(name): the number, on the controller, of a training on n1 and n2 that lasts far longer than its test."""
    started = []

    def call(name: str) -> str:
        (runs.checkout / "hostfile").write_text("n1 slots=1\nn2 slots=1\n")
        command = (f"nohup bash launch/multinode.sh hostfile small.yaml run.name={name} run.steps=1000000 "
                   f"schedule.name=WarmupLR checkpoint.every=1000 valid.every=100000 > {name}-ssh.log 2>&1 & echo $!")
        started.append(runs.cluster.on("ctl", "bash", "-c", command, folder=runs.checkout,
                                       env={"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}).stdout.strip())
        deadline = time.monotonic() + STARTS_WITHIN_S
        while runs.last_step(name) < HIT_AT:
            assert time.monotonic() < deadline, runs.log(name)
            time.sleep(0.2)
        return started[-1]

    yield call
    for number in started:
        runs.cluster.on("ctl", "kill", "-KILL", number, check=False)


@pytest.mark.parametrize("whom", ["the script", "pdsh", "one ssh", "asked by TERM"])
def test_whatever_ends_the_ranks_of_all_nodes_save_and_leave(runs, start, whom):
    name = f"ssh-{whom.split()[-1]}"
    number = start(name)
    hit = {"the script": ["kill", "-KILL", number], "pdsh": ["pkill", "-KILL", "-x", "pdsh.bin"],
           "one ssh": ["pkill", "-KILL", "-x", "-o", "ssh"], "asked by TERM": ["kill", "-TERM", number]}[whom]
    runs.cluster.on("ctl", *hit)
    deadline = time.monotonic() + ENDS_WITHIN_S
    while any(runs.cluster.processes(node, "launch/") for node in ("ctl", "n1", "n2")):
        assert time.monotonic() < deadline, runs.log(name)
        time.sleep(0.2)
    assert runs.folder(name).checkpoints.joinpath("latest").read_text() == f"step_{runs.last_step(name):08d}\n"
    assert runs.cluster.on("n1", "bash", "-c", "ls /tmp/dstrain-*.0", check=False).stdout == ""

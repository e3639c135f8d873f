"""However it is started on the cluster, it is the same run: the same rows, the same losses as one process."""

from __future__ import annotations

import concurrent.futures

import pytest
from slurm_cluster import NODES


def test_a_job_on_two_nodes_has_the_losses_of_one_process(runs):
    runs.assert_same_curve(runs.one_process, runs.two_nodes)
    with pytest.raises(AssertionError, match="differ between"):  # sums in another order: the check sees even that
        runs.assert_identical(runs.one_process, runs.two_nodes)


def test_a_job_on_three_nodes_has_the_losses_of_one_process(runs):
    runs.finish(runs.submit("three_nodes", nodes="3"))
    runs.assert_same_curve(runs.one_process, "three_nodes")


def test_one_task_a_rank_under_srun_is_bit_identical_to_one_task_a_node(runs):
    runs.finish(runs.submit("srun", DSTRAIN_LAUNCHER="srun"))
    runs.assert_identical(runs.two_nodes, "srun")


@pytest.fixture
def hostfile(runs):
    path = runs.checkout / "hostfile"
    path.write_text("n1 slots=1\nn2 slots=1\n")
    return path


def test_deepspeed_over_pdsh_and_ssh_starts_the_same_run(runs, hostfile):
    runs.call("ctl", "bash", "launch/multinode.sh", hostfile, "small.yaml", "run.name=pdsh")
    runs.assert_identical(runs.two_nodes, "pdsh")


def test_deepspeed_without_ssh_called_on_each_node_starts_the_same_run(runs, hostfile):
    with concurrent.futures.ThreadPoolExecutor() as calls:
        list(calls.map(lambda rank: runs.call(
            NODES[rank], "bash", "launch/multinode.sh", hostfile, "--node_rank", rank, "small.yaml",
            "run.name=no_ssh"), range(2)))
    runs.assert_identical(runs.two_nodes, "no_ssh")


def test_an_array_of_three_learning_rates_gives_three_run_folders(runs):
    job = runs.submit("sweep", "optim.lr=1e-3,2e-3,4e-3", nodes="1", script="slurm/sweep.sbatch",
                      options=("--array=0-2", "--gpus-per-node=0"), DS_ACCELERATOR="cpu", DSTRAIN_LAUNCHER="srun")
    runs.finish_array(job, 3)
    names = [f"sweep-lr-{lr}" for lr in ("1e-3", "2e-3", "4e-3")]
    assert sorted(path.name for path in runs.folder("sweep").path.parent.glob("sweep*")) == names
    for name, lr in zip(names, (1e-3, 2e-3, 4e-3)):
        steps = [line for line in runs.records(name) if "lr" in line]
        assert max(line["lr"] for line in steps) == lr
    runs.assert_identical(runs.one_process, names[0])
    with pytest.raises(AssertionError):
        runs.assert_same_curve(runs.one_process, names[1])

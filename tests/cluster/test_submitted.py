"""`dstrain submit` and `dstrain status` on the cluster: what was checked trains, and what cannot train never waits."""

from __future__ import annotations

import re

import pytest

OPTIONS = ("--gpus", "0", "--cpus", "1", "--time", "30", "--shared")


def dstrain(runs, *arguments, check=True):
    return runs.cluster.on("ctl", ".venv/bin/python", "-m", "dstrain", *arguments, folder=runs.checkout, check=check)


def submit(runs, *arguments):
    said = dstrain(runs, "submit", "small.yaml", *OPTIONS, *arguments).stdout
    return re.search(r"^submitted  job (\d+)", said, re.MULTILINE)[1]


def test_a_submitted_elastic_job_takes_all_nodes_and_has_the_losses_of_one_process(runs):
    job = submit(runs, "--nodes", "2-3", "run.name=submitted")
    known = runs.cluster.wait(job, "RUNNING|COMPLETED", within_s=60)
    assert known["NodeList"] == "n[1-3]"
    runs.wait_for_step("submitted", job, 1)
    running = dstrain(runs, "status", "runs/submitted").stdout
    runs.finish(job)
    assert f"job {job} runs on n[1-3]" in running or "finished" in running
    assert re.search(r"^submitted +60/60 .* finished, ", dstrain(runs, "status").stdout, re.MULTILINE)
    assert (runs.folder("submitted").path / "slurm" / "newest.log").read_text().endswith("the run is done\n")
    runs.assert_same_curve(runs.one_process, "submitted")


def test_a_submitted_sweep_under_srun_has_a_run_folder_a_value(runs):
    job = submit(runs, "--sweep", "optim.lr=1e-3,2e-3", "--launcher", "srun", "run.name=swept")
    runs.finish_array(job, 2)
    runs.assert_identical(runs.one_process, "swept-lr=0.001")
    assert max(line["lr"] for line in runs.records("swept-lr=0.002") if "lr" in line) == 2e-3


@pytest.mark.parametrize("arguments, reason", [
    (("optim.lr=-1",), "optim.lr is -1.0"),
    (("data.train.0.path=nowhere.txt",), "matches no file"),
    (("--nodes", "4"), "--nodes 4: partition main has 3"),
    (("--gpus", "3", "--cpus", "3"), "have at most 2 GPUs a node"),
    (("--partition", "mian"), "did you mean 'main'"),
    (("run.dir=/dev/shm/runs",), "is on tmpfs"),
])
def test_what_could_not_run_is_refused_before_the_queue(runs, arguments, reason):
    def queue():
        return runs.cluster.on("ctl", "squeue", "--noheader", "--states=all", "--format=%i").stdout

    before = queue()
    refused = dstrain(runs, "submit", "small.yaml", *OPTIONS, "run.name=never", *arguments, check=False)
    assert refused.returncode == 2 and reason in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
    assert queue() == before and not runs.folder("never").path.exists()

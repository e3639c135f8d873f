"""slurm/train.sbatch: its directives, and what it starts, on a stand-in for Slurm with two nodes."""

from __future__ import annotations

import re
import time

import pytest
from launch_stubs import ROOT, calls, copy_of_the_scripts, run_script, write_stub

JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8"}

# Runs its command once a node, one after the other, as srun --ntasks-per-node=1 does side by side.
SRUN = """
import subprocess
command = sys.argv[next(i for i, a in enumerate(sys.argv) if i and not a.startswith("-")):]
codes = [subprocess.run(command, env={**os.environ, "SLURM_NODEID": str(n)}).returncode for n in range(2)]
sys.exit(max(codes))
"""
SCONTROL = 'print("n1\\nn2")'


@pytest.fixture
def repo(tmp_path):
    folder = copy_of_the_scripts(tmp_path / "repo")
    write_stub(tmp_path / "bin", "scontrol", then=SCONTROL)
    write_stub(tmp_path / "bin", "srun", then=SRUN)
    # Slurm runs a copy from its own folder.
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "slurm_script").write_bytes((ROOT / "slurm" / "train.sbatch").read_bytes())
    return folder


def start(repo, *arguments, **environment):
    outside = repo.parent
    return run_script(["bash", str(outside / "spool" / "slurm_script"), *arguments], outside, outside / "bin",
                      **{**JOB, "SLURM_SUBMIT_DIR": str(repo), **environment})


def test_directives_let_a_job_come_back_and_keep_its_log():
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", (ROOT / "slurm" / "train.sbatch").read_text(), re.M))
    assert directives["ntasks-per-node"] == "1"
    assert "requeue" in directives
    assert directives["open-mode"] == "append"
    assert {"%j", "%N"} <= set(re.findall("%.", directives["output"]))
    assert directives["signal"].startswith("B:USR1@")


def test_each_node_starts_its_ranks_with_the_same_meeting_point(repo):
    done = start(repo, "quickstart", "run.steps=3", "data.valid=[{path: a b}]", SLURM_GPUS_ON_NODE="4")
    assert done.returncode == 0, done.stderr
    nodes = calls(repo / ".venv" / "bin", "deepspeed")
    arguments = [call["argv"] for call in nodes]
    assert [a[a.index("--node_rank") + 1] for a in arguments] == ["0", "1"]
    assert {a[a.index("--master_addr") + 1] for a in arguments} == {"n1"}
    (port,) = {a[a.index("--master_port") + 1] for a in arguments}
    assert 15000 <= int(port) < 30000
    assert arguments[0][-4:] == ["launch/train.py", "quickstart", "run.steps=3", "data.valid=[{path: a b}]"]
    assert all(call["cwd"] == str(repo) for call in nodes)
    assert all("DS_ACCELERATOR" not in call["env"] for call in nodes)
    hostfile = arguments[0][arguments[0].index("--hostfile") + 1]
    assert open(hostfile).read() == "n1 slots=4\nn2 slots=4\n"


def test_without_gpus_the_cores_are_shared_among_cpu_ranks(repo):
    start(repo, "quickstart", RANKS_PER_NODE="2")
    environment = calls(repo / ".venv" / "bin", "deepspeed")[0]["env"]
    assert environment["DS_ACCELERATOR"] == "cpu"
    assert environment["OMP_NUM_THREADS"] == "4"  # 8 cores a task, 2 ranks


def test_a_failing_training_fails_the_job(repo):
    write_stub(repo / ".venv" / "bin", "deepspeed", then="sys.exit(2)")
    assert start(repo, "nonsense").returncode == 2


def test_near_the_time_limit_the_job_is_requeued_and_waits_for_its_step(repo):
    # The stand-in for srun is the script's child: it sends the signal that Slurm sends to the batch shell.
    write_stub(repo.parent / "bin", "srun",
               then="import signal, time; os.kill(os.getppid(), signal.SIGUSR1); time.sleep(1); sys.exit(15)")
    started = time.monotonic()
    done = start(repo, "quickstart")
    assert time.monotonic() - started >= 1.0
    assert ["requeue", "4711"] in [call["argv"] for call in calls(repo.parent / "bin", "scontrol")]
    assert done.returncode == 15, done.stderr


@pytest.mark.parametrize("arguments, environment, reason", [
    ([], {}, "usage: sbatch"),
    (["r"], {"SLURM_SUBMIT_DIR": "/"}, "is not the dstrain repository"),
])
def test_mistakes_are_said_in_one_line(repo, arguments, environment, reason):
    done = start(repo, *arguments, **environment)
    assert done.returncode == 2
    assert reason in done.stderr and len(done.stderr.strip().splitlines()) == 1

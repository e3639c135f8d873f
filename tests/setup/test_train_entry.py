"""launch/train.py gives `dstrain train` the user's arguments, and each launcher's ranks in the same five variables."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from launch_stubs import ROOT, run_script, write_stub

STUB = """import json, os
def main(argv):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    print(json.dumps({"argv": argv, "ranks": {n: os.environ[n] for n in names if n in os.environ}}))
    return 7
"""

SRUN = {"SLURM_JOB_ID": "100", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4",
        "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_NODELIST": "n[1-3]"}


@pytest.fixture
def start(tmp_path):
    """Calls a copy of launch/train.py beside a stub of dstrain, from another folder."""
    (tmp_path / "repo" / "launch").mkdir(parents=True)
    for name in ("train.py", "leash.py"):
        (tmp_path / "repo" / "launch" / name).write_bytes((ROOT / "launch" / name).read_bytes())
    (tmp_path / "repo" / "dstrain").mkdir()
    (tmp_path / "repo" / "dstrain" / "__init__.py").write_text("")
    (tmp_path / "repo" / "dstrain" / "__main__.py").write_text(STUB)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def call(*arguments: str, path_first: Path | None = None, **environment: str):
        return run_script([sys.executable, str(tmp_path / "repo" / "launch" / "train.py"), *arguments], elsewhere,
                          path_first, **environment)

    return call


def told(done) -> dict:
    assert done.returncode == 7, done.stderr  # the exit code of dstrain itself
    return json.loads(done.stdout)


def test_arguments_reach_dstrain_train_in_their_order_without_the_launchers_own(start):
    got = told(start("--local_rank=1", "quickstart", "--deepspeed", "optim.lr=1e-3", "--deepspeed_config", "z.json",
                     "--fresh", "--yes", "data.valid=[{path: x}]"))
    assert got["argv"] == ["train", "quickstart", "optim.lr=1e-3", "--deepspeed_config", "z.json", "--fresh", "--yes",
                           "data.valid=[{path: x}]"]
    assert got["ranks"] == {"LOCAL_RANK": "1"}


@pytest.mark.parametrize("spelling", [["--local_rank", "2"], ["--local_rank=2"], ["--local-rank", "2"]])
def test_every_spelling_of_the_local_rank_is_taken(start, spelling):
    assert told(start(*spelling, "r"))["ranks"] == {"LOCAL_RANK": "2"}
    assert told(start(*spelling, "r", LOCAL_RANK="5"))["ranks"] == {"LOCAL_RANK": "5"}  # the environment is newer


def test_plain_python_sets_no_ranks(start):
    assert told(start("quickstart")) == {"argv": ["train", "quickstart"], "ranks": {}}


def test_help_is_dstrains_own(start):
    assert told(start("--help"))["argv"] == ["train", "--help"]


def test_srun_tasks_become_ranks_that_meet_at_the_steps_first_node(start, tmp_path):
    write_stub(tmp_path / "bin", "scontrol",
               then='assert sys.argv[1:] == ["show", "hostnames", "n[1-2]"]; print("n1\\nn2")')
    ranks = told(start("r", path_first=tmp_path / "bin", **SRUN))["ranks"]
    # 15000 + (31 * 100 + 0) % 15000 = 18100
    assert ranks == {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "18100"}


def test_srun_keeps_a_given_master(start):
    ranks = told(start("r", MASTER_ADDR="10.0.0.1", MASTER_PORT="12345", **SRUN))["ranks"]
    assert (ranks["MASTER_ADDR"], ranks["MASTER_PORT"]) == ("10.0.0.1", "12345")


def test_srun_without_a_master_is_a_clear_error(start, tmp_path):
    write_stub(tmp_path / "bin", "scontrol", then="sys.exit(1)")
    done = start("r", path_first=tmp_path / "bin", **SRUN)
    assert done.returncode == 2
    assert "MASTER_ADDR" in done.stderr and "Traceback" not in done.stderr


def test_one_gpu_per_task_is_number_0_of_each_task(start):
    given = {**SRUN, "MASTER_ADDR": "n1"}
    assert told(start("r", CUDA_VISIBLE_DEVICES="1", **given))["ranks"]["LOCAL_RANK"] == "0"
    assert told(start("r", CUDA_VISIBLE_DEVICES="0,1", **given))["ranks"]["LOCAL_RANK"] == "1"


def test_a_batch_scripts_own_shell_is_no_rank(start):
    # sbatch sets SLURM_PROCID=0 and SLURM_NTASKS there too; taken as rank 0 of 4 it would wait for ever.
    batch = {name: value for name, value in SRUN.items() if not name.startswith("SLURM_STEP")}
    assert told(start("r", **batch))["ranks"] == {}


def test_a_launcher_inside_srun_wins(start):
    ranks = told(start("r", RANK="0", WORLD_SIZE="2", **SRUN))["ranks"]
    assert ranks == {"RANK": "0", "WORLD_SIZE": "2"}


def test_another_start_of_the_same_job_meets_at_another_port(start):
    ports = {told(start("r", MASTER_ADDR="n1", SLURM_RESTART_COUNT=count, **SRUN))["ranks"]["MASTER_PORT"]
             for count in ("0", "1", "2")}
    assert len(ports) == 3


@pytest.mark.parametrize("given, port", [
    ({"MASTER_PORT": "29500", "WORLD_SIZE": "2", "LOCAL_SIZE": "2"}, "27345"),  # 15000 + 12345
    ({"MASTER_PORT": "29500", "WORLD_SIZE": "4", "LOCAL_SIZE": "2"}, "29500"),  # other nodes do not know of it
    ({"MASTER_PORT": "29501", "WORLD_SIZE": "2", "LOCAL_SIZE": "2"}, "29501"),
])
def test_runs_of_one_machine_do_not_all_meet_at_deepspeeds_fixed_port(given, port):
    spec = importlib.util.spec_from_file_location("train_entry", ROOT / "launch" / "train.py")
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    entry.leave_the_fixed_port(given, launcher=12345)
    assert given["MASTER_PORT"] == port

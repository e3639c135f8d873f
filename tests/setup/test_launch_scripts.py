"""The shell scripts parse, refuse mistakes in one line, and start deepspeed as they say."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from launch_stubs import ROOT, calls, copy_of_the_scripts, run_script, write_stub

SCRIPTS = [path for path in (*ROOT.glob("launch/*.sh"), *ROOT.glob("slurm/*.s*"), ROOT / "tests" / "run.sh",
                             ROOT / ".ci" / "run")]


@pytest.fixture
def repo(tmp_path):
    return copy_of_the_scripts(tmp_path / "repo")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_passes_shellcheck(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run(["shellcheck", "-x", str(script)], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def deepspeed_call(repo) -> dict:
    """The one call of the deepspeed launcher; where python itself is a stub, that has seen it."""
    by_python = [call for call in calls(repo / ".venv" / "bin", "python")
                 if call["argv"][0].endswith("run_deepspeed.py")]
    (call,) = by_python or calls(repo / "launch", "run_deepspeed.py") or calls(repo / ".venv" / "bin", "deepspeed")
    return call


def option(call: dict, name: str) -> str:
    return call["argv"][call["argv"].index(name) + 1]


def test_local_starts_two_cpu_ranks_where_there_is_no_gpu(repo):
    done = run_script(["bash", "launch/local.sh", "quickstart", "run.steps=30"], repo, DS_ACCELERATOR="cpu")
    assert done.returncode == 0, done.stderr
    call = deepspeed_call(repo)
    assert option(call, "--num_accelerators") == "2"
    assert 1024 <= int(option(call, "--master_port")) <= 65535
    assert call["argv"][-3:] == [f"{repo}/launch/train.py", "quickstart", "run.steps=30"]
    assert call["env"]["DS_ACCELERATOR"] == "cpu"
    assert int(call["env"]["OMP_NUM_THREADS"]) >= 1
    assert "MALLOC_TRIM_THRESHOLD_" in call["env"]


def test_local_takes_the_number_of_ranks_and_keeps_the_users_threads(repo):
    run_script(["bash", "launch/local.sh", "--ranks", "3", "quickstart"], repo, DS_ACCELERATOR="cpu",
               OMP_NUM_THREADS="5")
    call = deepspeed_call(repo)
    assert option(call, "--num_accelerators") == "3"
    assert call["env"]["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("ranks, gpu_list, handed_on", [("1", "2,5", "2"), ("2", "2,5", "2,5")])
def test_local_uses_the_gpus_that_are_visible_and_no_others(repo, ranks, gpu_list, handed_on):
    (repo / ".venv" / "bin" / "python").unlink()
    write_stub(repo / ".venv" / "bin", "python",
               then="print(2 if 'torch' in sys.argv[2] else 29999) if sys.argv[1] == '-c' else None")
    run_script(["bash", "launch/local.sh", "--ranks", ranks, "quickstart"], repo, CUDA_VISIBLE_DEVICES=gpu_list)
    call = deepspeed_call(repo)
    assert call["env"]["CUDA_VISIBLE_DEVICES"] == handed_on
    # With a number deepspeed would take GPUs 0, 1, ... whatever the list says.
    assert "--num_accelerators" not in call["argv"]
    assert "DS_ACCELERATOR" not in call["env"]


def test_local_refuses_what_is_no_number_of_ranks(repo):
    done = run_script(["bash", "launch/local.sh", "--ranks", "quickstart"], repo, DS_ACCELERATOR="cpu")
    assert done.returncode == 2 and "quickstart: not a number" in done.stderr


def test_without_a_venv_the_remedy_is_named(repo):
    (repo / ".venv" / "bin" / "deepspeed").unlink()
    done = run_script(["bash", "launch/local.sh", "r"], repo, DS_ACCELERATOR="cpu")
    assert done.returncode == 2 and "launch/setup.sh" in done.stderr


def test_multinode_starts_this_node_without_ssh(repo):
    # Every node works out the same port, from the hostfile alone.
    (repo / "hosts").write_text("# two nodes\nn1 slots=2\nn2 slots=2\n")
    for node in ("0", "1"):
        done = run_script(["bash", "launch/multinode.sh", "hosts", "--node_rank", node, "quickstart", "run.seed=1"],
                          repo, DS_ACCELERATOR="cpu")
        assert done.returncode == 0, done.stderr
    first, second = calls(repo / "launch", "run_deepspeed.py")
    assert [option(call, "--node_rank") for call in (first, second)] == ["0", "1"]
    assert option(first, "--master_addr") == option(second, "--master_addr") == "n1"
    assert option(first, "--master_port") == option(second, "--master_port")
    assert 15000 <= int(option(first, "--master_port")) < 30000
    assert "--no_ssh" in first["argv"] and "--hostfile" in first["argv"]
    assert first["argv"][-3:] == [f"{repo}/launch/train.py", "quickstart", "run.seed=1"]


def test_multinode_over_ssh_hands_on_the_environment_but_no_secret(repo, tmp_path):
    write_stub(tmp_path / "bin", "pdsh")
    (repo / "hosts").write_text("n1 slots=2\n")
    write_stub(repo / "launch", "run_deepspeed.py", then="print(open(os.environ['DS_ENV_FILE']).read())")
    command = ["bash", "launch/multinode.sh", "hosts", "quickstart", "environment.NCCL_DEBUG=INFO",
               "environment.OWN=$x %h", "environment.HF_HOME=/of/the/recipe"]
    done = run_script(command, repo, tmp_path / "bin", DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="eth1",
                      HF_TOKEN="secret", EMPTY="", HF_HOME="/of/the/shell")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert {"GLOO_SOCKET_IFNAME=eth1", "DS_ACCELERATOR=cpu", "NCCL_DEBUG=INFO", "HF_HOME=/of/the/shell"} <= set(lines)
    assert "OWN=\\$x %%h" in lines  # what pdsh and the node's shell make the recipe's own value of again
    assert any(line.startswith(f"PATH={repo}/.venv/bin:") for line in lines)
    assert all("=" in line for line in lines)  # deepspeed breaks on a blank line
    assert "secret" not in done.stdout
    assert "--force_multi" in deepspeed_call(repo)["argv"]  # or one host in the hostfile would mean this machine


def test_a_mistake_in_the_recipe_is_said_before_any_node_is_asked(repo, tmp_path):
    write_stub(tmp_path / "bin", "pdsh")
    (repo / "hosts").write_text("n1 slots=2\n")
    for more in ([], ["--node_rank", "0"]):
        done = run_script(["bash", "launch/multinode.sh", "hosts", *more, "quickstrat"], repo, tmp_path / "bin")
        assert done.returncode == 2 and "did you mean 'quickstart'" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert calls(repo / "launch", "run_deepspeed.py") == []


@pytest.mark.parametrize("arguments, reason", [
    (["missing", "r"], "no such hostfile"),
    (["empty", "r"], "no line like"),
    (["good", "--node_rank", "r"], "--node_rank r"),
    (["good", "--node_rank", "1", "r"], "1 nodes, numbered from 0"),
    (["good"], "usage"),
])
def test_multinode_says_what_is_wrong(repo, arguments, reason):
    (repo / "empty").write_text("# nothing yet\n")
    (repo / "good").write_text("n1 slots=1\n")
    done = run_script(["bash", "launch/multinode.sh", *arguments], repo)
    assert done.returncode == 2 and reason in done.stderr
    assert calls(repo / ".venv" / "bin", "deepspeed") == []

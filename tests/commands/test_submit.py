"""`dstrain submit`, from the command line to sbatch, with a stand-in for Slurm."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from slurm_stand_in import SlurmStandIn
from small_run import ROOT, lay_out

from dstrain.__main__ import main
from dstrain.cluster import shared
from dstrain.cluster.file_systems import Place
from dstrain.commands import submit
from dstrain.config.certificate import subject_of
from dstrain.config.load import load_recipe, recipe_to_dict
from dstrain.config.proof_names import PROOF_NAMES

ON_TWO = ["--nodes", "2", "--gpus", "2"]
ON_CPUS = ["--partition", "cpu", "--gpus", "0", "--ranks-per-node", "2"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "HF_", "DSTRAIN_"))]:
        monkeypatch.delenv(name)
    repository = tmp_path / "repository"
    for name in ("slurm/job.sh", ".venv/bin/deepspeed"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("")
    stand_in = SlurmStandIn(tmp_path / "slurm")
    monkeypatch.setenv("PATH", stand_in.path)
    monkeypatch.setattr(submit, "REPOSITORY", repository)
    real_place = shared.place_of
    monkeypatch.setattr(shared, "place_of", lambda path: (
        real_place(path) if path.is_relative_to("/dev") else Place("nfs4", "server:/home", "/")))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(lay_out(work))
    return stand_in


def directives(script):
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))


def test_everything_is_resolved_in_the_script(cluster, capsys):
    assert main(["submit", "small.yaml", *ON_TWO, "--time", "2-0", "--account", "me", "--memory", "64G",
                 "run.steps=9"]) == 0
    script, folder = cluster.submitted, Path.cwd() / "runs" / "small" / "slurm"
    assert directives(script) == {
        "job-name": "small", "chdir": str(Path.cwd()), "nodes": "2", "cpus-per-task": "8", "gpus-per-node": "2",
        "mem": "64G", "time": "2-00:00:00", "partition": "gpu", "account": "me", "signal": "B:USR1@120",
        "open-mode": "append", "output": f"{folder}/%j-%N.log", "requeue": ""}
    assert "export DSTRAIN_LAUNCHER=deepspeed RANKS_PER_NODE=2\n" in script and "DS_ACCELERATOR" not in script
    recipe, = folder.glob("recipe_*.yaml")
    assert f"recipe={recipe}\n" in script
    assert script.endswith(f'exec bash {submit.REPOSITORY}/slurm/job.sh "$recipe"\n')
    assert (folder / recipe.name.replace("recipe", "submit").replace("yaml", "sbatch")).read_text() == script
    assert load_recipe(str(recipe)) == load_recipe("small.yaml", ["run.steps=9"])


def test_it_says_the_job_and_how_to_follow_it(cluster, capsys):
    main(["submit", "small.yaml", *ON_TWO])
    said = capsys.readouterr().out
    for line in ("submitted  job 4711", "tail -F runs/small/slurm/newest.log", "dstrain status runs/small",
                 "squeue -j 4711", "scancel 4711"):
        assert line in said
    assert json.loads(Path("runs/small/slurm/jobs.jsonl").read_text())["job"] == "4711"


def test_a_dry_run_prints_the_script_and_leaves_no_trace(cluster, capsys):
    assert main(["submit", "small.yaml", *ON_TWO, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("#!/usr/bin/env bash\n") and printed.out.endswith('job.sh "$recipe"\n')
    assert "ranks      2 node(s) x 2 = 4 rank(s)" in printed.err
    assert cluster.submitted is None and not Path("runs").exists()
    assert subprocess.run(["bash", "-n"], input=printed.out, text=True).returncode == 0


def test_cpu_ranks_under_srun_are_tasks_of_their_own(cluster):
    main(["submit", "small.yaml", *ON_CPUS, "--launcher", "srun", "--cpus", "8"])
    found = directives(cluster.submitted)
    assert (found["ntasks-per-node"], found["cpus-per-task"]) == ("2", "4") and "gpus-per-node" not in found
    assert "DSTRAIN_LAUNCHER=srun RANKS_PER_NODE=2\nexport DS_ACCELERATOR=cpu\n" in cluster.submitted


def test_an_elastic_job_fits_at_fewest_and_at_most(cluster, capsys):
    main(["submit", "small.yaml", "--gpus", "1", "--nodes", "2-3"])
    assert directives(cluster.submitted)["nodes"] == "2-3"
    assert "ntasks-per-node" not in directives(cluster.submitted)  # Slurm would take it for a job of 2 tasks
    assert main(["submit", "small.yaml", "--gpus", "2", "--nodes", "2-3", "run.name=x"]) == 2
    assert "on 3 node(s) x 2 = 6 rank(s): 6 ranks, but the recipe has data.lanes 4" in capsys.readouterr().err


def test_a_sweep_is_an_array_with_a_recipe_and_a_folder_each(cluster, capsys):
    assert main(["submit", "small.yaml", *ON_TWO, "--sweep", "optim.lr=1e-3,2e-3,3e-3"]) == 0
    script = cluster.submitted
    assert directives(script)["array"] == "0-2" and directives(script)["output"].endswith("/small/slurm/%A_%a-%N.log")
    listed = re.search(r"recipes=\(\n(.*?)\n\)", script, re.DOTALL)[1].split()
    for number, path in enumerate(listed):
        recipe = load_recipe(path)
        assert recipe.optim.lr == (number + 1) / 1000 and recipe.run.name == f"small-lr=0.00{number + 1}"
        assert Path(path).parent == Path.cwd() / "runs" / recipe.run.name / "slurm"
        assert json.loads((Path(path).parent / "jobs.jsonl").read_text())["job"] == f"4711_{number}"
    assert "dstrain status runs/small-lr=0.001 runs/small-lr=0.002 runs/small-lr=0.003" in capsys.readouterr().out


def test_the_scripts_own_lines_pick_the_members_recipe_and_link_its_log(cluster, tmp_path):
    main(["submit", "small.yaml", *ON_TWO, "--sweep", "optim.lr=1e-3,2e-3"])
    job = submit.REPOSITORY / "slurm" / "job.sh"
    job.write_text('echo "$DSTRAIN_LAUNCHER $RANKS_PER_NODE $@"\n')
    done = subprocess.run(["bash", cluster.state / "submitted.sbatch"], capture_output=True, text=True, env={
        "PATH": os.environ["PATH"], "SLURM_JOB_ID": "4712", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "1",
        "SLURMD_NODENAME": "n2"})
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"deepspeed 2 {Path.cwd()}/runs/small-lr=0.002/slurm/recipe_\S+.yaml\n", done.stdout)
    link = Path("runs/small-lr=0.002/slurm/newest.log")
    assert os.readlink(link) == f"{Path.cwd()}/runs/small/slurm/4711_1-n2.log"


def test_a_chain_is_an_array_of_which_one_runs_at_a_time(cluster, capsys):
    assert main(["submit", "small.yaml", *ON_TWO, "--chain", "4"]) == 0
    assert directives(cluster.submitted)["array"] == "0-3%1" and "export DSTRAIN_CHAIN=yes\n" in cluster.submitted
    assert "4 jobs one after the other" in capsys.readouterr().out


def test_what_the_checks_went_by_stands_in_the_script(cluster, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/shared/a b")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "30")
    monkeypatch.setenv("RANK", "3")
    main(["submit", "small.yaml", *ON_TWO])
    assert "export HF_HUB_OFFLINE=1\nexport TIKTOKEN_CACHE_DIR='/shared/a b'\n" in cluster.submitted
    assert directives(cluster.submitted)["time"] == "00:30:00"
    assert not {"SBATCH_TIMELIMIT", "RANK"} & set(cluster.environment_of_sbatch)


def test_folders_with_blanks_survive_directives_and_shell(cluster, tmp_path, monkeypatch):
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(lay_out(folder))
    assert main(["submit", "small.yaml", *ON_TWO]) == 0
    assert directives(cluster.submitted)["chdir"] == str(folder).replace(" ", "\\ ")
    assert f"recipe='{folder}/runs/small/slurm/recipe_" in cluster.submitted


REFUSED = [
    (["optim.lr=-1"], "optim.lr"),
    (["batch.rows=two"], "batch.rows"),
    (["data.train.0.path=gone.txt"], "'gone.txt' matches no file"),
    (["engine.config=zero9"], "zero9"),
    (["run.dir=/dev/shm/runs"], "run folder /dev/shm/runs/small is on tmpfs"),
    (["--nodes", "3"], "on 3 node(s) x 2 = 6 rank(s): 6 ranks, but the recipe has data.lanes 4"),
    (["--partition", "nowhere"], "--partition nowhere"),
    (["--time", "2:00"], "--time 00:02:00: the job would be told to leave 120 s before its end"),
    (["--sweep", "optim.lr=1e-3,-1"], "optim.lr"),
    (["tokenizer=gpt3"], "tokenizer: 'gpt3' is unknown"),
    (["engine.config=zero1_fp16", "--gpus", "0", "--partition", "cpu", "--nodes", "1"], "fp16"),
]


@pytest.mark.parametrize("arguments, said", REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_what_would_not_work_is_refused_before_the_queue_in_one_line(cluster, capsys, arguments, said):
    assert main(["submit", "small.yaml", *ON_TWO, *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.strip().splitlines()) == 1 and not printed.out
    assert cluster.submitted is None and not Path("runs").exists()


def test_a_local_disk_is_refused_where_nodes_are_others(cluster, capsys, monkeypatch):
    monkeypatch.setattr(shared, "place_of", lambda path: Place("xfs", "/dev/sda1", str(Path.cwd().parent)))
    assert main(["submit", "small.yaml", "--nodes", "2", "--gpus", "2"]) == 2
    said = capsys.readouterr().err
    assert "is on xfs (a disk of this machine: /dev/sda1, mounted at" in said
    assert "which other nodes (n1, n2, n3) do not see" in said
    assert main(["submit", "small.yaml", "--nodes", "2", "--gpus", "2", "--shared"]) == 0


def test_a_folder_in_which_another_run_trains_is_refused(cluster, capsys):
    run = Path("runs/small")
    run.mkdir(parents=True)
    (run / ".lock").write_text(json.dumps({"pid": 12, "host": "n7"}))
    with open(run / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["submit", "small.yaml", *ON_TWO]) == 2
    assert "runs/small is being trained by process 12 on n7" in capsys.readouterr().err
    assert cluster.submitted is None
    assert main(["submit", "small.yaml", *ON_TWO]) == 0  # what a training left behind bars nobody


@pytest.mark.parametrize("state, refused", [("PENDING", True), ("RUNNING", True), ("COMPLETED", False)])
def test_a_run_whose_job_waits_or_runs_is_not_submitted_twice(cluster, capsys, state, refused):
    assert main(["submit", "small.yaml", *ON_TWO]) == 0
    (cluster.state / "submitted.sbatch").unlink()
    cluster.queue(f"4711|4711|{state}|None|n1|1:00:00|1:00")
    assert main(["submit", "small.yaml", *ON_TWO]) == (2 if refused else 0)
    assert (cluster.submitted is None) is refused
    if refused:
        assert f"job 4711 is {state.lower()} for it already" in capsys.readouterr().err


def saved_at(step, took_s=1, *overrides):
    """A checkpoint, as far as a submission looks at it."""
    checkpoint = Path(f"runs/small/checkpoints/step_{step:08d}")
    checkpoint.mkdir(parents=True)
    recipe = recipe_to_dict(load_recipe("small.yaml", overrides))
    for name, text, at in (("recipe.yaml", yaml.safe_dump(recipe), 1000), ("manifest.sha256", "", 1000 + took_s)):
        (checkpoint / name).write_text(text)
        os.utime(checkpoint / name, (at, at))


def test_a_run_that_is_finished_is_not_queued_again(cluster, capsys):
    saved_at(6)
    assert main(["submit", "small.yaml", *ON_TWO]) == 2
    assert "stands at step 6 of 6: finished already; more steps with run.steps" in capsys.readouterr().err
    assert main(["submit", "small.yaml", *ON_TWO, "run.steps=8"]) == 0


def test_a_change_that_would_be_another_run_is_refused(cluster, capsys):
    saved_at(2)
    assert main(["submit", "small.yaml", *ON_TWO, "batch.rows=16"]) == 2
    assert "batch.rows is 16 in the recipe, but 8 in" in capsys.readouterr().err
    assert main(["submit", "small.yaml", *ON_TWO, "optim.lr=1e-4"]) == 0


def test_text_that_nodes_do_not_see_is_refused(cluster, capsys):
    text = Path("/dev/shm") / f"dstrain-test-{os.getpid()}.txt"
    text.write_text("a text\n")
    try:
        assert main(["submit", "small.yaml", *ON_TWO, f"data.valid.0.path={text}"]) == 2
    finally:
        text.unlink()
    assert "data.valid.0 /dev/shm is on tmpfs" in capsys.readouterr().err


def test_a_cache_that_nodes_do_not_see_is_fetched_again_or_refused(cluster, capsys, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/dev/shm/dstrain-no-such-cache")
    monkeypatch.setattr("dstrain.data.tokenizers.tiktoken_files.missing_files", lambda name: {})
    monkeypatch.setattr(submit, "_reaches_the_network", lambda: True)
    assert main(["submit", "small.yaml", *ON_TWO, "tokenizer=gpt2", "--dry-run"]) == 0
    assert "which the nodes do not see: the job fetches it again" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["submit", "small.yaml", *ON_TWO, "tokenizer=gpt2"]) == 2
    assert "tokenizer gpt2 /dev/shm/dstrain-no-such-cache is on tmpfs" in capsys.readouterr().err


def test_a_save_that_takes_longer_than_the_notice_is_refused(cluster, capsys):
    saved_at(2, took_s=100)
    assert main(["submit", "small.yaml", *ON_TWO]) == 2
    said = capsys.readouterr().err
    assert "its last save took 100.0 s" in said and "give --signal-before 180" in said
    assert main(["submit", "small.yaml", *ON_TWO, "--signal-before", "180"]) == 0
    assert directives(cluster.submitted)["signal"] == "B:USR1@180"


def test_what_sbatch_refuses_is_handed_on(cluster, capsys):
    cluster.refuse("sbatch: error: Batch job submission failed: Invalid account")
    assert main(["submit", "small.yaml", *ON_TWO]) == 2
    assert "Batch job submission failed: Invalid account" in capsys.readouterr().err
    cluster.refuse("sbatch: error: Unable to contact slurm controller (connect failure)")
    assert main(["submit", "small.yaml", *ON_TWO]) == 1


def test_without_slurm_a_dry_run_works_and_says_what_it_could_not_check(cluster, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["submit", "small.yaml", "--gpus", "2", "--dry-run"]) == 0
    assert "partition, nodes, GPUs and time limit are not checked" in capsys.readouterr().err
    assert main(["submit", "small.yaml", "--gpus", "2"]) == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err


def test_an_installed_package_without_the_scripts_is_said(cluster, capsys):
    (submit.REPOSITORY / "slurm" / "job.sh").unlink()
    assert main(["submit", "small.yaml", *ON_TWO]) == 2
    assert "has no slurm/job.sh" in capsys.readouterr().err


def test_the_recipes_environment_counts_in_the_checks(cluster, capsys, monkeypatch):
    recipe = yaml.safe_load(Path("small.yaml").read_text())
    recipe |= {"tokenizer": "gpt2", "environment": {"HF_HUB_OFFLINE": "1", "TIKTOKEN_CACHE_DIR": "cache"}}
    Path("offline.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what the recipe adds goes with this test
    assert main(["submit", "offline.yaml", *ON_TWO]) == 2
    assert "its files are not in cache, and offline mode is on" in capsys.readouterr().err


MOST_CPU_S = 0.5
QUICK = """
import json, resource, sys
from dstrain.__main__ import main
from dstrain.cluster import shared
from dstrain.cluster.file_systems import Place
code = main(json.loads(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = sorted({"torch", "numpy", "deepspeed", "pyarrow", "datasets", "transformers"} & set(sys.modules))
print(json.dumps([code, used.ru_utime + used.ru_stime, heavy]), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["submit", "small.yaml", "--gpus", "2", "--dry-run"],
                                       ["submit", "small.yaml", "--gpus", "2", "tokenizer=gpt2", "--dry-run"],
                                       ["status", "--all"]], ids=["submit", "submit-gpt2", "status"])
def test_a_login_node_needs_no_torch_and_half_a_second(cluster, arguments):
    (Path("runs") / "small" / "checkpoints").mkdir(parents=True)
    for name in ("encoder.json", "vocab.bpe"):
        Path(name).write_text("")
    done = subprocess.run([sys.executable, "-c", QUICK, json.dumps(arguments)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9"})
    code, cpu_s, heavy = json.loads(done.stderr.splitlines()[-1])
    assert code in (0, 2) and heavy == [], done.stderr
    assert cpu_s < MOST_CPU_S, f"{cpu_s:.2f} s of CPU time"


def certified(*overrides: str, failed: bool = False) -> None:
    """As `dstrain doctor small.yaml` with these overrides leaves it when all is proven."""
    recipe = load_recipe("small.yaml", overrides)
    (folder := Path(recipe.run.dir) / recipe.run.name).mkdir(parents=True, exist_ok=True)
    verdict = "FAILED" if failed else "proven"
    proofs = [{"name": name, "claim": "it holds", "verdict": verdict if name == "labels" else "proven", "figure": "0",
               "tolerance": "none"} for name in PROOF_NAMES]
    (folder / "doctor.json").write_text(json.dumps({
        "format": 2, "subject": subject_of(recipe), "device": "cpu", "device_name": "cpu", "versions": {},
        "proofs": proofs, "passed": not failed, "figures": [], "not_proven": [], "not_run": []}))


def test_a_job_that_requires_the_doctor_is_refused_until_its_recipe_is_proven_as_it_is(cluster, capsys):
    command = ["submit", "small.yaml", *ON_TWO, "--require-doctor"]
    assert main(command) == 2 and "there is no doctor.json; run `dstrain doctor`" in capsys.readouterr().err
    certified(failed=True)
    assert main(command) == 2 and "a proof failed: labels" in capsys.readouterr().err
    certified()
    assert main([*command, "run.steps=9"]) == 2
    assert "run.steps was 6 when it was proven, and is 9 now" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1 and cluster.submitted is None
    assert main(command) == 0 and cluster.submitted is not None


@pytest.mark.parametrize("text", ["{}", '{"format": 2, "proofs": ["a"]}', "[" * 100_000], ids=["empty", "odd", "deep"])
def test_a_damaged_certificate_refuses_a_job_in_one_line(cluster, capsys, text):
    certified()
    Path("runs/small/doctor.json").write_text(text)
    assert main(["submit", "small.yaml", *ON_TWO, "--require-doctor"]) == 2
    said = capsys.readouterr().err
    assert "is no certificate of this dstrain" in said and said.count("\n") == 1 and cluster.submitted is None


def test_a_job_on_other_text_than_was_proven_is_refused(cluster, capsys):
    certified()
    Path("corpus.txt").write_text(Path("corpus.txt").read_text() + "and one line more\n")
    assert main(["submit", "small.yaml", *ON_TWO, "--require-doctor"]) == 2
    assert "data.train.0: its files are others" in capsys.readouterr().err and cluster.submitted is None


def test_each_member_of_a_sweep_needs_its_own_proof_and_the_line_says_which(cluster, capsys):
    command = ["submit", "small.yaml", *ON_TWO, "--require-doctor", "--sweep", "optim.lr=1e-3,2e-3"]
    certified("optim.lr=1e-3", "run.name=small-lr=0.001")
    assert main(command) == 2 and "optim.lr=2e-3 run.name=small-lr=0.002" in capsys.readouterr().err
    certified("optim.lr=2e-3", "run.name=small-lr=0.002")
    assert main(command) == 0

"""`dstrain status`: one table of how runs stand, from whatever their folders hold and a stand-in for Slurm."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_stand_in import SlurmStandIn
from small_run import ROOT

from dstrain.__main__ import main
from dstrain.cluster.job_notes import note_job

sys.path.insert(0, str(ROOT / "tests" / "cluster_tools"))
from run_folders import age, black_box, line, lock, run_folder  # noqa: E402  (after the path is set)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    stand_in = SlurmStandIn(tmp_path / "slurm")
    monkeypatch.setenv("PATH", stand_in.path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return stand_in


def status(capsys, *arguments):
    """Header, rows and what stands below them."""
    code = main(["status", *map(str, arguments)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert all(len(line) <= 100 for line in printed.out.splitlines()[:10])
    return printed.out.splitlines()


def test_a_training_shows_step_loss_speed_time_left_job_and_checkpoint(cluster, capsys):
    run = run_folder(Path("runs/one"))
    note_job(run, "12")
    cluster.queue("12|12|RUNNING|None|n[1-2]|2:00:00|10:00")
    age(run / "checkpoints", 600)
    header, row, words = status(capsys, run)
    assert header.split() == ["RUN", "STEP", "LOSS", "TOKENS/S", "LEFT", "CHECKPOINT", "STATE"]
    assert row.split("  ")[0] == "one" and "120/600" in row and "4.8800" in row and "8192" in row
    assert " 4 min " in row  # 480 steps of half a second
    assert "100, 10 min ago" in row and row.endswith("job 12 runs on n[1-2]")
    assert words == "job 12 is RUNNING on n[1-2], its time limit is in 2.0 h"


def test_a_job_that_runs_without_a_sign_of_life_is_told_apart(cluster, capsys):
    run = run_folder(Path("runs/one"))
    note_job(run, "12")
    age(run, 3600)
    cluster.queue("12|12|RUNNING|None|n1|2:00:00|2:00:00")
    assert status(capsys, run)[1].endswith("job 12 runs on n1, no sign for 60 min")
    cluster.queue("12|12|RUNNING|None|n1|2:00:00|0:30")  # it has only just begun, again
    assert status(capsys, run)[1].endswith("job 12 runs on n1")


def test_a_waiting_job_says_why_and_its_steps_come_from_what_was_submitted(cluster, capsys):
    run = Path("runs/new")
    note_job(run, "13")
    (run / "slurm" / "recipe_1.yaml").write_text("run: {steps: 50}\n")
    cluster.queue("13|13|PENDING|Resources||1:00:00|0:00")
    row = status(capsys, run)[1]
    assert row.endswith("job 13 waits (Resources)") and row.split()[1:6] == ["-", "-", "-", "-", "-"]


def test_of_a_chain_the_job_whose_turn_it_is_counts(cluster, capsys):
    run = run_folder(Path("runs/one"))
    note_job(run, "7")
    cluster.queue("7_1|9|RUNNING|None|n1|1:00:00|5:00", "7_2|7|PENDING|JobArrayTaskLimit||2:00:00|0:00")
    cluster.accounting("7_0|8|FAILED|n1")
    assert status(capsys, run)[1].endswith("job 7_1 runs on n1")


def test_without_slurm_a_process_of_this_machine_is_seen(cluster, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    run = run_folder(Path("runs/one"))
    lock(run, os.getpid())
    assert status(capsys, run)[1].endswith(f"trains: process {os.getpid()} on {os.uname().nodename}")
    lock(run, os.getpid(), started=1)  # the number was given to another process since
    assert status(capsys, run)[1].endswith("not running")


def test_without_slurm_a_training_elsewhere_is_seen_by_its_signs(cluster, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    run = run_folder(Path("runs/one"))
    lock(run, 5, host="n1")
    black_box(run, step=130)
    row = status(capsys, run)[1]
    assert row.endswith("trains: process 5 on n1") and "130/600" in row
    age(run, 3600)
    assert "trains" not in status(capsys, run)[1]


@pytest.mark.parametrize("cause, words", [("left", "left at step 130, on SIGTERM"), ("NaN", "gradients were NaN"),
                                          ("out of memory", "no memory left")])
def test_how_an_attempt_ended_is_said_with_the_way_to_more(cluster, capsys, cause, words):
    run = run_folder(Path("runs/one"))
    lock(run, 5, host="n1")
    black_box(run, step=130, ending={"cause": cause, "words": words, "step": 130, "phase": "step",
                                     "at": time.time() - 7300})
    lines = status(capsys, run)
    assert f"{cause}, 2.0 h ago" in lines[1]
    assert lines[-1] == f"why: dstrain postmortem {run}"


def test_a_job_that_failed_before_it_trained_is_said(cluster, capsys):
    run = run_folder(Path("runs/one"))
    note_job(run, "12")
    note_job(run, "14")
    lock(run, 5, host="n1", job="12")
    black_box(run, step=130, ending={"cause": "left", "words": "left", "step": 130, "phase": "leaving",
                                     "at": time.time() - 7300})
    cluster.accounting("12|12|COMPLETED|n1", "14|14|FAILED|n1")
    assert status(capsys, run)[1].endswith("job 14 failed")


def test_jobs_that_were_cancelled_in_the_queue_tell_nothing_of_the_run(cluster, capsys):
    run = run_folder(Path("runs/one"))
    note_job(run, "7")
    lock(run, 5, host="n1", job="9")
    black_box(run, step=130, ending={"cause": "left", "words": "left", "step": 130, "phase": "leaving",
                                     "at": time.time() - 7300})
    cluster.queue("7_1|9|CANCELLED|None|n1|1:00:00|5:00", "7_2|7|CANCELLED|None||2:00:00|0:00")
    assert status(capsys, run)[1].endswith("left, 2.0 h ago")


def test_a_finished_run_is_finished_whatever_became_of_its_job(cluster, capsys):
    run = run_folder(Path("runs/one"), step=600, checkpoint=600)
    note_job(run, "12")
    cluster.accounting("12|12|TIMEOUT|n1")
    row = status(capsys, run)[1]
    assert row.endswith("finished") and "600/600" in row and row.split()[4] == "-"


def test_live_runs_come_first_and_old_ones_only_when_all_are_asked_for(cluster, capsys):
    for name in ("old", "recent", "training", "waiting"):
        run_folder(Path("runs") / name)
    age(Path("runs/old"), 3 * 86400)
    age(Path("runs/recent"), 3600)
    age(Path("runs/waiting"), 3 * 86400)
    note_job(Path("runs/training"), "1")
    note_job(Path("runs/waiting"), "2")
    cluster.queue("1|1|RUNNING|None|n1|1:00:00|1:00", "2|2|PENDING|Priority||1:00:00|0:00")
    (Path("runs") / "no run").mkdir()
    lines = status(capsys)
    assert [row.split()[0] for row in lines[1:4]] == ["training", "waiting", "recent"]
    assert lines[4].startswith("1 run(s) in runs without a sign for more than 24 h")
    assert [row.split()[0] for row in status(capsys, "--all")[1:]] == ["training", "waiting", "recent", "old"]


def test_slurm_is_asked_once_for_all_runs(cluster, capsys):
    for number in range(5):
        note_job(run_folder(Path(f"runs/r{number}")), str(20 + number))
    cluster.queue(*(f"{20 + n}|{20 + n}|RUNNING|None|n1|1:00:00|1:00" for n in range(5)))
    status(capsys)
    assert (cluster.state / "squeue.asked").read_text() == "20,21,22,23,24\n"


def test_long_names_and_large_numbers_still_fit_a_terminal(cluster, capsys):
    name = "a-run-with-a-name-that-goes-on-and-on-and-on-for-ever-lr=0.001"
    run = run_folder(Path("runs") / name, step=123456, steps=1234567890, checkpoint=123456)
    note_job(run, "123456_789")
    cluster.queue("123456_789|9|RUNNING|None|node[0001-0512,0600-0700]|1:00:00|1:00")
    row = status(capsys, run)[1]
    assert len(row) <= 100 and "lr=0.001" in row and "job 123456_789" in row and "/1.235G" in row


BROKEN = {
    "empty": {},
    "torn": {"metrics.jsonl": '{"step": 1, "loss": 2.0, "tokens": 5, "tokens_per_s": 1.0}\n{"step": 2, "lo',
             "recipe.yaml": "run: {steps: 10", "slurm/jobs.jsonl": '{"job": "12"}\n{"jo', ".lock": '{"pid"'},
    "nonsense": {"metrics.jsonl": '[1]\nnull\n"x"\n{"step": "a", "loss": null}\n{"step": 3, "loss": "x"}\n\xff\n',
                 "recipe.yaml": "- 1\n", "slurm/jobs.jsonl": '5\n{"job": 7}\n{"job": "x;y"}\n',
                 ".lock": '{"pid": "x", "host": 3}', "checkpoints/latest": "../../..", "endings.jsonl": "x\n{}\n",
                 "blackbox/rank_00000.json": '{"rank": "x", "step": "y", "started": null}'},
    "NaN": {"metrics.jsonl": '{"step": 4, "loss": NaN, "tokens": 0, "tokens_per_s": 0.0}\n',
            "recipe.yaml": "run: {steps: 4000}\n", "checkpoints/latest": "step_00000004"},
    "older": {"metrics.jsonl": '{"step": 4, "loss": 3.5}\n{"step": 4, "split": "valid", "loss": 9.0}\n',
              "recipe.yaml": "run: {tokens: 5}\nnew_section: {}\n"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_left_open(cluster, capsys, name):
    run = Path("runs") / name
    (run / "checkpoints").mkdir(parents=True)
    for file, text in BROKEN[name].items():
        (run / file).parent.mkdir(exist_ok=True)
        (run / file).write_text(text, encoding="latin-1")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    row = status(capsys, run)[1]
    assert row.startswith(name)
    assert {"torn": "1/?", "NaN": "4/4000", "older": "4/?"}.get(name, "-") in row.split()
    assert {"NaN": "nan", "older": "3.5000"}.get(name, "-") in row.split()
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_million_metric_lines_are_not_read(cluster, capsys):
    run = run_folder(Path("runs/long"))
    block = "".join(json.dumps(line(number)) + "\n" for number in range(1000))
    with open(run / "metrics.jsonl", "w") as file:
        for _ in range(1000):
            file.write(block)
        file.write(json.dumps(line(1_000_001)) + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert "1M/" in status(capsys, run)[1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 0.2


def test_a_look_changes_nothing_in_the_folder(cluster, capsys):
    run = run_folder(Path("runs/one"))
    black_box(run, step=130)
    lock(run, 5, host="n1")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in [run, *run.rglob("*")]}
    status(capsys, run)
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in [run, *run.rglob("*")]}


@pytest.mark.parametrize("arguments, said", [
    (["nowhere"], "nowhere: there is no such folder"), (["runs"], "did you mean runs/one?"),
    (["runs/one", "--all"], "leave one of them out")])
def test_a_wrong_folder_is_said_in_one_line(cluster, capsys, arguments, said):
    run_folder(Path("runs/one"))
    assert main(["status", *arguments]) == 2
    printed = capsys.readouterr().err
    assert said in printed and len(printed.strip().splitlines()) == 1


def test_where_there_is_no_run_that_is_said(cluster, capsys):
    assert main(["status"]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_many_runs_are_shown_within_a_second_of_cpu_time(cluster):
    for number in range(100):
        black_box(run_folder(Path(f"runs/r{number:03d}")), step=130, ending={
            "cause": "left", "words": "left", "step": 130, "phase": "step", "at": time.time()})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "dstrain", "status", "--all"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.count("left, ") == 100, done.stdout + done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5

"""What a user of `dstrain doctor` sees: lines, exit codes, the certificate, Ctrl-C; and what others make of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from small_run import environment, lay_out

from dstrain.__main__ import main
from dstrain.config.certificate import why_not_proven
from dstrain.config.load import load_recipe
from dstrain.doctor import table
from dstrain.doctor.finding import Finding
from dstrain.doctor.registry import PROOFS
from dstrain.train.announce import unproven_in_words
from dstrain.train.run_folder import RunFolder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(lay_out(tmp_path))
    return tmp_path


def test_proofs_that_were_asked_for_are_shown_and_certified_and_the_others_are_missing(place, capsys):
    assert main(["doctor", "small.yaml", "--only", "labels,arguments", "--only", "documents"]) == 0
    shown = capsys.readouterr().out
    for name, proof in PROOFS.items():
        assert bool(re.search(rf"^proven +{name} +{proof.at} +[\d.]+ s$", shown, re.MULTILINE)) == (
            name in ("labels", "arguments", "documents"))
    assert f"3 proven, 0 not proven, {len(PROOFS) - 3} not run, 0 FAILED" in shown and "CUDA kernels" in shown
    certificate = json.loads((place / "runs/small/doctor.json").read_text())
    assert [proof["name"] for proof in certificate["proofs"]] == ["labels", "arguments", "documents"]
    assert certificate["subject"]["hashes"]["data_sample"]
    why = why_not_proven(place / "runs/small", load_recipe("small.yaml"))
    assert f"{len(PROOFS) - 3} of {len(PROOFS)} proofs were not run" in why


def test_a_failed_proof_ends_with_1_and_says_what_is_allowed_why_and_what_to_do(place, capsys):
    assert main(["doctor", "small.yaml", "data.valid=[{path: corpus.txt, documents: lines}]", "--only", "overlap"]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^FAILED +overlap", shown, re.MULTILINE) and "FAILED: overlap" in shown
    assert all(re.search(rf"^    {label} +\w", shown, re.MULTILINE) for label in ("allowed", "likely", "remedy"))
    proof, = json.loads((place / "runs/small/doctor.json").read_text())["proofs"]
    assert proof["verdict"] == "FAILED" and proof["cause"] and proof["remedy"]


def test_the_data_sample_is_another_where_the_text_is(place, capsys):
    samples = []
    for text in ("", "", "and one line that is new\n"):
        (place / "corpus.txt").write_text(text + (place / "corpus.txt").read_text())
        assert main(["doctor", "small.yaml", "--only", "arguments"]) == 0
        certificate = json.loads((place / "runs/small/doctor.json").read_text())
        samples.append(certificate["subject"]["hashes"]["data_sample"])
    assert samples[0] == samples[1] != samples[2]


@pytest.mark.parametrize("arguments, reason", [
    (["small.yaml", "--only", "lables"], "--only lables: there is no such proof"),
    ([], "doctor: name a recipe"),
    (["small.yaml", "--self-test", "--only", "labels"], "--self-test runs every proof"),
    (["small.yaml", "data.train=[{path: nowhere.txt}]"], "nowhere.txt")])
def test_a_mistake_is_one_line_and_nothing_is_written(place, capsys, arguments, reason):
    assert main(["doctor", *arguments]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1 and not (place / "runs").exists()


def test_without_a_gpu_the_kernels_of_one_are_refused_in_a_line(place, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["doctor", "small.yaml", "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "torch finds no CUDA device here" in said and said.count("\n") == 1


def test_beside_a_training_in_the_same_folder_nothing_but_the_certificate_is_touched(place, capsys):
    folder = RunFolder.of(load_recipe("small.yaml"))
    folder.make()
    (folder.path / "metrics.jsonl").write_text('{"step": 1}\n')
    lock = folder.lock()
    try:
        before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
        assert main(["doctor", "small.yaml", "--only", "arguments"]) == 0
        after = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    finally:
        lock.close()
    assert after.keys() - before.keys() == {folder.path / "doctor.json"}
    assert all(after[path] == before[path] for path in before)


def test_lines_keep_to_the_width_of_the_terminal(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert main(["doctor", "small.yaml", "--only", "labels,padding"]) == 0
    words_alone = [line for line in capsys.readouterr().out.splitlines() if len(line) > 70]
    assert table.width_here() == 70 and all(len(line.split()) <= 2 for line in words_alone), words_alone


@pytest.mark.ranks
def test_ctrl_c_ends_ranks_and_files_and_writes_no_certificate(place):
    (scratch := place / "scratch").mkdir()
    run = subprocess.Popen([sys.executable, "-m", "dstrain", "doctor", "small.yaml", "--only", "resume"], cwd=place,
                           env={**environment(), "TMPDIR": str(scratch)}, start_new_session=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(scratch.glob("dstrain-doctor-*/resume-*")) and time.monotonic() < until and run.poll() is None:
        time.sleep(0.1)  # until ranks are about to be asked
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to ranks as well
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130 and said.strip() == "dstrain: stopped by Ctrl-C; no certificate was written"
    assert not list(scratch.glob("dstrain-*")) and not list(scratch.glob("pymp-*")) and not (place / "runs").exists()


@pytest.mark.ranks
def test_training_says_that_its_recipe_is_not_proven(place):
    def trained(*changes: str) -> str:
        done = subprocess.run([sys.executable, "-m", "dstrain", "train", "small.yaml", "run.steps=3", *changes],
                              cwd=place, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return "".join(line for line in done.stdout.splitlines() if line.startswith("doctor "))

    assert "not proven: there is no doctor.json" in trained()
    assert main(["doctor", "small.yaml", "--only", "arguments", "run.steps=4"]) == 0
    assert "optim.lr was 0.0006 when it was proven, and is 0.001 now" in trained("run.steps=4", "optim.lr=0.001")


ODD = '{"format": 2, "proofs": ["a"]}'


@pytest.mark.parametrize("text", [ODD, "[" * 100_000, '{"format": 1, "subject": {}, "proofs": []}'],
                         ids=["odd", "deep", "older"])
def test_a_damaged_certificate_is_a_line_for_training_and_the_doctor_takes_its_place(place, capsys, text):
    (folder := place / "runs/small").mkdir(parents=True)
    (folder / "doctor.json").write_text(text)
    said = unproven_in_words(folder, load_recipe("small.yaml"), goes_on=False)
    assert "is no certificate of this dstrain" in said and "\n" not in said
    assert main(["doctor", "small.yaml", "--only", "arguments"]) == 0
    proof, = json.loads((folder / "doctor.json").read_text())["proofs"]
    assert proof["name"] == "arguments"


def test_text_that_changes_while_the_proofs_run_is_not_proven(place, capsys, monkeypatch):
    prove = PROOFS["arguments"].prove

    def meanwhile(case):
        (place / "corpus.txt").write_text("another text\n" * 99)
        return prove(case)

    monkeypatch.setitem(PROOFS, "arguments", replace(PROOFS["arguments"], prove=meanwhile))
    assert main(["doctor", "small.yaml", "--only", "arguments"]) == 0
    assert "data.train.0: its files are others" in why_not_proven(place / "runs/small", load_recipe("small.yaml"))


@pytest.mark.parametrize("lanes, alone", [(1, True), (4, False)])
def test_several_ranks_are_claimed_only_where_several_ran(place, lanes, alone, monkeypatch):
    found = Finding(True, "0", "none", "")
    for name in ("same_curve", "resume"):
        monkeypatch.setitem(PROOFS, name, replace(PROOFS[name], prove=lambda case: found))
    assert main(["doctor", "small.yaml", f"data.lanes={lanes}", "--only", "same_curve,resume"]) == 0
    proofs = json.loads((place / "runs/small/doctor.json").read_text())["proofs"]
    assert [proof["claim"].endswith("(here one rank alone ran)") for proof in proofs] == [alone, alone]


def test_a_run_that_goes_on_without_any_certificate_is_not_told_again(place, capsys):
    recipe, folder = load_recipe("small.yaml"), place / "runs/small"
    assert unproven_in_words(folder, recipe, goes_on=True) is None
    assert "there is no doctor.json" in unproven_in_words(folder, recipe, goes_on=False)
    assert main(["doctor", "small.yaml", "--only", "arguments"]) == 0
    assert "proofs were not run" in unproven_in_words(folder, recipe, goes_on=True)

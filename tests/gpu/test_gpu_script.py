"""tests/gpu.sh itself, on a CPU: it says what it lacks, goes on after what fails, and keeps what was done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import environment
import pytest
from catalogue import CHECKS

ROOT = Path(__file__).resolve().parents[2]
SAME_CODE_ELSEWHERE = {"fp32", "resume-deterministic", "speed-small", "speed-medium", "compile"}
"""left out below to save time: other checks run the same code in small, and compile takes a minute by itself"""


def gpu_sh(root: Path, *arguments: str) -> list[str]:
    return ["bash", str(root / "tests/gpu.sh"), *arguments]


def run(root: Path, *arguments: str, **environment_variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(gpu_sh(root, *arguments), capture_output=True, text=True, timeout=500, cwd=root,
                          env={**os.environ, "PYTHON": sys.executable, **environment_variables})


def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_two(tmp_path):
    done = run(ROOT, str(tmp_path / "gpu.json"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no GPU" in done.stderr and "--rehearse" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_a_python_without_the_packages_is_told_all_that_it_lacks(monkeypatch):
    monkeypatch.setattr(environment, "NEEDED", {"json": "json", "no_such_one": "no-such-one", "nor_this": "nor-this"})
    assert environment.missing_packages() == ["no-such-one", "nor-this"]
    done = run(ROOT, "--only", "rates", PYTHON="no-such-python")
    assert done.returncode == 2 and "no-such-python is not there" in done.stderr


def test_an_unknown_check_is_refused_by_name():
    done = run(ROOT, "--only", "attention,atention")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no check atention" in done.stderr


@pytest.mark.slow
def test_a_rehearsal_runs_every_check_and_claims_nothing_that_needs_a_gpu(tmp_path):
    names = [check.name for check in CHECKS if check.name not in SAME_CODE_ELSEWHERE]
    done = run(ROOT, "--rehearse", str(tmp_path / "gpu.json"), "--only", ",".join(names), "--jobs", "2")
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(report["checks"]) and set(report["checks"]) == set(names) and report["finished"] and report["passed"]
    statuses = {name: found["status"] for name, found in report["checks"].items()}
    assert {name for name, status in statuses.items() if status == "needs a GPU"} == {
        "offload", "transfers", "memory", "rates", "speed-tiny"}
    assert all(found["figures"] and found["tolerance"] and found["claim"] for found in report["checks"].values())
    assert report["environment"]["packages"]["torch"] and "a rehearsal" in report["what"]


@pytest.mark.slow
def test_a_broken_mask_fails_its_check_a_crash_is_told_and_the_others_go_on(tmp_path):
    for folder in ("dstrain", "ds_configs", "tests/gpu", "tests/bench"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/gpu.sh", tmp_path / "tests")
    masks = tmp_path / "dstrain/nn/masks.py"
    whole = masks.read_text()
    broken = whole.replace("return same_BTT & ", "return torch.ones_like(same_BTT) & ")
    assert broken != whole
    masks.write_text(broken)
    (tmp_path / "tests/gpu/rates.py").write_text("raise RuntimeError('planted')\n")
    done = run(tmp_path, "--rehearse", "gpu.json", "--only", "masks,rates,head", PYTHONPATH="")
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 1 and report["finished"] and report["passed"] is False
    found = report["checks"]
    assert found["masks"]["status"] == "failed" and "earlier document of the row changes" in found["masks"]["why"]
    assert found["rates"]["status"] == "crashed" and "planted" in found["rates"]["why"]
    assert found["head"]["status"] == "passed"


def test_what_was_done_stands_in_the_file_when_it_is_ended_and_nothing_runs_on(tmp_path):
    path = tmp_path / "gpu.json"
    process = subprocess.Popen(gpu_sh(ROOT, "--rehearse", str(path), "--only", "attention,head,compile",
                                      "--jobs", "1"),
                               env={**os.environ, "PYTHON": sys.executable, "TMPDIR": str(tmp_path)},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: path.exists() and len(json.loads(path.read_text())["checks"]) == 2)
        wait_for(lambda: running_in(tmp_path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    finally:
        process.kill()
    report = json.loads(path.read_text())
    assert len(report["checks"]) == 2 and report["finished"] is False and report["passed"] is None
    wait_for(lambda: not running_in(tmp_path))


def wait_for(condition, timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def running_in(folder: Path) -> list[int]:
    """Checks whose outcome is to be written below this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if b"one_check.py" in command and bytes(folder) in command:
            found.append(int(process.name))
    return found

"""The real deepspeed launcher: the same run as one process, mistakes said once, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import ROOT, environment, lay_out, read_lines

pytestmark = pytest.mark.ranks


@pytest.fixture
def place(tmp_path):
    return lay_out(tmp_path)


def command(*arguments: str) -> list[str]:
    return ["bash", str(ROOT / "launch/local.sh"), *arguments]


def launch(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), cwd=place, env=environment(), capture_output=True, text=True,
                          timeout=300, stdin=subprocess.DEVNULL)


def alone(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(ROOT / "launch/train.py"), *arguments], cwd=place, env=environment(),
                          capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


def test_two_launched_ranks_with_zero_3_are_one_process_with_zero_1(place):
    one = alone(place, "small.yaml", "run.name=one")
    two = launch(place, "small.yaml", "run.name=two",
                 "--deepspeed", "--deepspeed_config", str(ROOT / "ds_configs/zero3_fp32.json"))
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    assert "--deepspeed_config" in two.stdout and "ZeRO stage 3" in two.stdout
    assert two.stdout.count("done: 6 steps") == 1
    a, b = (place / "runs" / name for name in ("one", "two"))
    assert read_lines(a / "ledger.jsonl") == read_lines(b / "ledger.jsonl")
    for x, y in zip(read_lines(a / "metrics.jsonl"), read_lines(b / "metrics.jsonl"), strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-5)
        assert ((x["step"], x.get("lr"), x.get("tokens"), x.get("targets"))
                == (y["step"], y.get("lr"), y.get("tokens"), y.get("targets")))
    assert sum("split" in line for line in read_lines(b / "metrics.jsonl")) == 2


def test_a_mistake_is_said_once_and_passed_on_as_exit_code_two(place):
    for arguments in (["small.yaml", "batch.rowz=8"], ["small.yaml", "data.train=[{path: nowhere.txt}]"]):
        done = launch(place, *arguments)
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("dstrain:")]
        assert done.returncode == 2 and len(said) == 1, done.stderr + done.stdout


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_is_said_in_one_line_leaves_no_process_and_the_run_goes_on(place, presses):
    process = begin(place)
    until_saved(process)
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    said = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in said and said.count("Ctrl-C") == 1, said
    assert gone(place) == []
    newest = (place / "runs/small/checkpoints/latest").read_text().strip()
    done = launch(place, "small.yaml", f"run.steps={int(newest[5:]) + 4}", "schedule.name=WarmupLR")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"goes on from runs/small/checkpoints/{newest}" in done.stdout, done.stdout + done.stderr


def test_a_killed_rank_ends_the_run_everywhere_with_a_reason(place):
    process = begin(place)
    until_saved(process)
    ranks = [pid for pid in _alive_in(place) if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
             and b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    assert ranks
    os.kill(max(ranks), signal.SIGKILL)
    said = process.stdout.read()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in said, said
    assert gone(place) == []


def test_a_second_training_in_the_same_folder_is_refused_by_name(place):
    process = begin(place)
    until_saved(process)
    for more in ([], ["--fresh", "--yes"]):
        second = alone(place, "small.yaml", "run.steps=100000", "schedule.name=WarmupLR", *more)
        assert second.returncode == 2 and "is being trained by process" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    assert "Traceback" not in process.stdout.read() and process.wait(timeout=60) == 130


def begin(place: Path) -> subprocess.Popen:
    """A training on two launched ranks that would go on for ever, in a process group of its own."""
    return subprocess.Popen(command("small.yaml", "run.steps=100000", "schedule.name=WarmupLR"), cwd=place,
                            env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True)


def until_saved(process: subprocess.Popen) -> None:
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "saved" in line:
            return
    raise AssertionError("".join(seen))


def gone(place: Path) -> list[int]:
    """What is still alive in the folder after some seconds' patience."""
    deadline = time.monotonic() + 20
    while _alive_in(place) and time.monotonic() < deadline:
        time.sleep(0.2)
    return _alive_in(place)


def _alive_in(place: Path) -> list[int]:
    """Processes whose working directory is this test's own folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").resolve() == place.resolve():
                found.append(int(folder.name))
        except OSError:
            continue  # ended meanwhile
    return found

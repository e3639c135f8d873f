"""Real ends of real trainings, and what `dstrain postmortem` makes of them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

import harness  # noqa: E402

from dstrain.__main__ import main  # noqa: E402

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return harness.lay_out(tmp_path_factory.mktemp("ends"))


def told(place, name, capsys) -> str:
    capsys.readouterr()
    assert main(["postmortem", str(place / name / "run")]) == 0
    return capsys.readouterr().out


def test_finished_then_nothing_is_left_to_do(place, capsys):
    assert harness.start(place, "run.dir=finished", "run.steps=6").wait() == [0, 0]
    words = told(place, "finished", capsys)
    assert "It finished: 6 steps." in words and words.count("\n") == 1


def test_one_rank_killed(place, capsys):
    job = harness.start(place, "run.dir=killed")
    assert job.trains_within() and not job.ended_within(0.3)
    job.send(signal.SIGKILL, [1])
    assert job.wait() == [1, -signal.SIGKILL]
    words = told(place, "killed", capsys)
    assert "ank 1 on " in words and "was killed from outside (as by SIGKILL)" in words
    assert "the same command" in words


def test_preempted_and_gone_on(place, capsys):
    job = harness.start(place, "run.dir=left", "run.steps=1000")
    assert job.trains_within()
    job.send(signal.SIGTERM, [1])
    assert job.wait() == [75, 75]
    words = told(place, "left", capsys)
    assert "asked to leave (preempted)" in words and "SIGTERM" in words and "goes on from step_0000" in words
    assert harness.start(place, "run.dir=left", "run.steps=5").wait() == [0, 0]
    words = told(place, "left", capsys)
    assert "before that:" in words and "left: it was asked to leave (preempted)" in words.split("before that:")[1]


def test_gradients_that_are_nan(place, capsys):
    codes = harness.start(place, "run.dir=nan", "optim.lr=1e38", "optim.clip=0", "run.max_skipped=2",
                          "schedule.warmup_steps=0").wait()
    assert codes == [2, 2]
    assert "gave up, for its gradients were NaN or Inf" in told(place, "nan", capsys)


def test_data_that_cannot_be_read(place, capsys):
    (place / "bad.jsonl").write_text('{"text": "good"}\n' * 20 + "bad\n" * 50)
    codes = harness.start(place, "run.dir=data", 'data.train=[{path: bad.jsonl}]').wait()
    assert codes == [2, 2]
    words = told(place, "data", capsys)
    assert "data could not be read" in words and "bad.jsonl" in words and "no checkpoint was committed yet" in words


def test_a_folder_without_a_black_box_is_a_mistake(tmp_path, capsys):
    assert main(["postmortem", str(tmp_path)]) == 2 and main(["postmortem", str(tmp_path / "nowhere")]) == 2
    assert "has no black box" in capsys.readouterr().err

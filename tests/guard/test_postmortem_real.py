"""Real ends of real trainings, a few of tests/faults/ends.py: each is told by its right cause."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

import ends  # noqa: E402
import harness  # noqa: E402

from dstrain.__main__ import main  # noqa: E402

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return harness.lay_out(tmp_path_factory.mktemp("ends"))


@pytest.mark.parametrize("name", ["finished-before", "killed", "all-lost", "crashed", "preempted", "nan", "bad-data",
                                  "disk-full", "mistake", "running"])
def test_a_real_end_is_told_by_its_right_cause_place_and_checkpoint(place, name):
    try:
        words, missing = ends.tell(place, name)
    except ends.NotPermitted as why:
        pytest.skip(str(why))
    assert not missing, words


def test_a_folder_without_a_black_box_is_a_mistake(tmp_path, capsys):
    assert main(["postmortem", str(tmp_path)]) == 2 and main(["postmortem", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    assert "has no black box" in said and "there is no such folder" in said and said.count("\n") == 2

"""`dstrain verify`: what it says of each checkpoint, and its exit code. Without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small_run import sign

from dstrain.__main__ import main
from dstrain.runtime.checkpoint.folder import point
from dstrain.runtime.checkpoint.manifest import MANIFEST

FILES = ("model.safetensors", "optimizer-exp_avg.safetensors", "optimizer-exp_avg_sq.safetensors", "state.json",
         "recipe.yaml")


@pytest.fixture
def run(tmp_path):
    for step in (2, 4, 6):
        folder = tmp_path / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        for name in FILES:
            (folder / name).write_bytes(name.encode() * step)
        (folder / MANIFEST).write_text(json.dumps({"format": 2, "piece_bytes": 2**26}))
        sign(folder)
    point(tmp_path / "checkpoints", "latest", "step_00000006")
    point(tmp_path / "checkpoints", "best", "step_00000004")
    return tmp_path


def test_a_line_a_checkpoint_and_0_where_all_are_good(run, capsys):
    assert main(["verify", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["step", "2"], ["step", "4"], ["step", "6"]]
    assert all("  good" in line for line in lines[:3])
    assert lines[1].endswith("(best)") and lines[2].endswith("(latest)") and len(lines) == 4
    assert lines[3].startswith("3 checkpoint(s), all good; ") and lines[3].endswith("/s)")


def test_the_newest_and_best_says_both(run, capsys):
    point(run / "checkpoints", "best", "step_00000006")
    assert main(["verify", str(run)]) == 0
    assert "good  (latest, best)" in capsys.readouterr().out


def test_1_where_one_is_damaged_and_what_is_wrong_with_it(run, capsys):
    path = run / "checkpoints/step_00000004/state.json"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert main(["verify", str(run)]) == 1
    out = capsys.readouterr().out
    assert "DAMAGED: state.json has other contents than when it was written (SHA-256)  (best)" in out
    assert "3 checkpoint(s), 1 damaged; " in out
    assert main(["verify", str(path.parent)]) == 1
    assert main(["verify", str(run / "checkpoints/step_00000002")]) == 0


def test_what_is_out_of_the_way_is_said_and_harms_nobody(run, capsys):
    folder = run / "checkpoints"
    (folder / "step_00000006").rename(folder / "damaged_step_00000006")
    (folder / ".making_step_00000008").mkdir()
    assert main(["verify", str(run)]) == 0
    out = capsys.readouterr().out
    assert "damaged_step_00000006: set aside as damaged" in out and ".making_step_00000008: a save that" in out


@pytest.mark.parametrize("where, said", [("nowhere", "is not a run folder"), ("empty", "has no checkpoint yet")])
def test_2_where_there_is_no_run(tmp_path, where, said, capsys):
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    assert main(["verify", str(tmp_path / where)]) == 2
    assert said in capsys.readouterr().err


def test_a_login_node_needs_no_torch(run):
    code = ("import sys; from dstrain.__main__ import main; code = main(sys.argv[1:]); "
            "assert not {'torch', 'numpy', 'deepspeed'} & set(sys.modules); sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, "verify", str(run)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

"""`dstrain postmortem`: what it promises of the checkpoints is what the next start does. Without torch."""

from __future__ import annotations

import json

import pytest
from small_run import sign

from dstrain.__main__ import main
from dstrain.guard.blackbox import Record, RecordFile, clear
from dstrain.runtime.checkpoint.folder import mark_committed
from dstrain.runtime.checkpoint.manifest import MANIFEST, Unreadable

FILES = ("model.safetensors", "optimizer-exp_avg.safetensors", "optimizer-exp_avg_sq.safetensors", "state.json",
         "recipe.yaml")


@pytest.fixture
def run(tmp_path):
    """Killed at step 7, with checkpoints of steps 4 and 6."""
    for step in (4, 6):
        folder = tmp_path / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        for name in FILES:
            (folder / name).write_bytes(name.encode() * step)
        (folder / MANIFEST).write_text(json.dumps({"format": 2, "piece_bytes": 2**26}))
        sign(folder)
    clear(tmp_path)
    words = {"cause": "error", "words": "ValueError", "step": 7, "phase": "step", "detail": "", "at": 160.0}
    RecordFile(tmp_path, 0).write(Record(host="alpha", pid=7, attempt="1", started=100.0, at=150.0, step=7,
                                         phase="step", ending=words))
    return tmp_path


def told(run, capsys) -> str:
    assert main(["postmortem", str(run)]) == 0
    return capsys.readouterr().out


def harm(run, step: int) -> None:
    with open(run / f"checkpoints/step_{step:08d}/model.safetensors", "ab") as file:
        file.write(b"x")


def test_what_is_kept_is_the_newest_checkpoint_that_may_be_good(run, capsys):
    assert "Kept is step_00000006 (its bytes are checked" in (said := told(run, capsys)) and "1 step again" in said
    harm(run, 6)
    said = told(run, capsys)
    assert "Kept is step_00000004 (" in said and "3 steps again" in said
    assert "Damaged and passed over: step_00000006: model.safetensors has " in said


def test_where_no_checkpoint_is_whole_nothing_is_promised(run, capsys):
    harm(run, 4)
    harm(run, 6)
    said = told(run, capsys)
    assert "Kept is" not in said and "No checkpoint is whole (step_00000006: model.safetensors has " in said
    assert "the same command is refused; restore one, or start over with --fresh" in said


def test_checkpoints_that_are_gone_are_no_beginning(run, capsys):
    mark_committed(run / "checkpoints")
    (run / "checkpoints").rename(run / "elsewhere")
    said = told(run, capsys)
    assert "starts from the beginning" not in said and "there were some: the same command is refused" in said


def test_a_checkpoint_that_cannot_be_read_may_be_good_and_is_not_passed_over(run, capsys, monkeypatch):
    def broken(folder):
        raise Unreadable(f"{MANIFEST} cannot be read: Input/output error")
    monkeypatch.setattr("dstrain.commands.postmortem.promises", broken)
    said = told(run, capsys)
    assert "Kept is" not in said and "damaged" not in said and "manifest.json cannot be read: Input/output" in said

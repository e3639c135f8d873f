"""What is committed, what counts as damaged, and which checkpoints stay."""

from __future__ import annotations

import hashlib
import json

import pytest

from dstrain.runtime.checkpoint import folder as checkpoint
from dstrain.runtime.checkpoint.manifest import verify
from dstrain.runtime.dist import lone_rank


def made(folder, step):
    """A checkpoint folder as far as manifest and names go."""
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    files = {"model.safetensors": b"weights", "state.json": b"{}", "recipe.yaml": b"",
             "optimizer-exp_avg.safetensors": b"", "optimizer-exp_avg_sq.safetensors": b""}
    for name, data in files.items():
        (path / name).write_bytes(data)
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": listed}))
    return path


@pytest.mark.parametrize("harm, said", [
    (lambda path: (path / "model.safetensors").write_bytes(b"weightz"), "other contents"),
    (lambda path: (path / "model.safetensors").write_bytes(b"weight"), "6 bytes instead of 7"),
    (lambda path: (path / "state.json").unlink(), "state.json is missing"),
    (lambda path: (path / "manifest.json").unlink(), "manifest.json cannot be read"),
    (lambda path: (path / "manifest.json").write_text('{"files": {'), "manifest.json cannot be read"),
    (lambda path: (path / "manifest.json").write_text('{"files": []}'), "manifest.json cannot be read"),
    (lambda path: (path / "manifest.json").write_text('{"format": 1, "files": {}}'), "does not list"),
    (lambda path: (path / "manifest.json").write_text('{"format": 2, "files": {}}'), "manifest.sha256"),
    (lambda path: (path / "manifest.json").write_text('{"format": 3, "files": {}}'), "reads formats up to 2"),
    (lambda path: (path / "manifest.json").write_text((path / "manifest.json").read_text().replace(
        '"files"', '"moments": ["exp_avg", "exp_avg_sq", "momentum"], "files"')),
     "does not list optimizer-momentum.safetensors"),
])
def test_damage_is_found_and_the_newest_good_one_is_taken(tmp_path, harm, said):
    old, new = made(tmp_path, 2), made(tmp_path, 10)
    assert verify(new) is None
    harm(new)
    assert said in verify(new)
    lines = []
    assert checkpoint.newest_good(tmp_path, lone_rank(), lines.append) == old
    assert len(lines) == 1 and str(new) in lines[0] and said in lines[0]


def test_what_was_never_published_is_not_a_checkpoint(tmp_path):
    (tmp_path / ".making_step_00000007").mkdir()
    assert checkpoint.committed(tmp_path) == []
    assert checkpoint.newest_good(tmp_path, lone_rank(), print) is None
    assert checkpoint.newest_good(tmp_path / "nowhere", lone_rank(), print) is None


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (2, 4, 6, 8, 10):
        made(tmp_path, step)
    checkpoint.point(tmp_path, "best", "step_00000004")
    checkpoint.prune(tmp_path, keep=2, say=print)
    assert [path.name for path in checkpoint.committed(tmp_path)] == ["step_00000004", "step_00000008", "step_00000010"]
    assert checkpoint.pointed(tmp_path, "best").name == "step_00000004"
    assert checkpoint.pointed(tmp_path, "latest") is None


def test_going_on_moves_damaged_later_ones_aside_so_that_pruning_keeps_what_is_good(tmp_path):
    for step in (2, 4, 5, 6):
        made(tmp_path, step)
    checkpoint.point(tmp_path, "latest", "step_00000006")
    checkpoint.point(tmp_path, "best", "step_00000006")
    lines = []
    checkpoint.go_on_from(tmp_path, 4, best_step=2, say=lines.append)
    assert [path.name for path in checkpoint.committed(tmp_path)] == ["step_00000002", "step_00000004"]
    assert (tmp_path / "damaged_step_00000006").is_dir() and len(lines) == 2
    assert checkpoint.pointed(tmp_path, "latest").name == "step_00000004"
    assert checkpoint.pointed(tmp_path, "best").name == "step_00000002"
    checkpoint.go_on_from(tmp_path, 4, best_step=None, say=lines.append)
    assert checkpoint.pointed(tmp_path, "best") is None

"""Whole runs on a dataset of the hub: the commit is written down and kept, and prepared shards need no hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_stub import Hub
from small_run import lay_out, read_lines

pytestmark = pytest.mark.slow

SOURCE = '{train: [{hub: some/lines}], valid: [], lanes: 4, folder: null}'


def rows(word: str) -> bytes:
    return "".join(json.dumps({"text": f"{word} line {n} says {n + 1}"}) + "\n" for n in range(200)).encode()


@pytest.fixture
def hub():
    with Hub() as hub:
        hub.repo("some/lines").commit({"train.jsonl": rows("old")})
        yield hub


def dstrain(hub: Hub, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dstrain", *arguments], cwd=folder, capture_output=True, text=True,
        timeout=120, env={**environment, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "DS_ACCELERATOR": "cpu",
                          "PYTHONPATH": str(Path(__file__).resolve().parents[2])})


def train(hub: Hub, folder: Path, *more: str) -> Path:
    done = dstrain(hub, folder, "train", "small.yaml", f"data={SOURCE}", *more)
    assert done.returncode == 0, done.stderr
    return folder / "runs/small"


def hashes(run: Path) -> list[str]:
    return [line["rows"] for line in read_lines(run / "ledger.jsonl")]


def test_a_run_keeps_to_its_commit_while_the_branch_moves_and_prepared_shards_need_no_hub(hub, tmp_path):
    old = hub.repo("some/lines").refs["main"]
    whole = hashes(train(hub, lay_out(_new(tmp_path / "whole"))))

    stopped = lay_out(_new(tmp_path / "stopped"))
    train(hub, stopped, "run.steps=2")
    hub.repo("some/lines").commit({"train.jsonl": rows("new")})
    run = train(hub, stopped, "run.steps=6")
    assert hashes(run) == whole and len(whole) == 6
    assert yaml.safe_load((run / "recipe.yaml").read_text())["data"]["train"][0]["revision"] == old

    shards = lay_out(_new(tmp_path / "shards"))
    pinned = SOURCE.replace("some/lines", f"some/lines, revision: {old}")
    done = dstrain(hub, shards, "prepare", "small.yaml", f"data={pinned}", "--out", "made")
    assert done.returncode == 0, done.stderr
    hub.down, asked = True, len(hub.requests)
    assert hashes(train(hub, shards, "data.prepared=made")) == whole
    assert len(hub.requests) == asked, "with prepared shards nobody asks the hub"

    fresh = hashes_of_new_commit(hub, lay_out(_new(tmp_path / "fresh")))
    assert fresh != whole, "the rows of the new commit are others: this test could have failed"


def hashes_of_new_commit(hub: Hub, folder: Path) -> list[str]:
    hub.down = False
    return hashes(train(hub, folder))


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder

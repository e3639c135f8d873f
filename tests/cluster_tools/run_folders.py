"""Run folders as trainings leave them, made by hand for tests that look at them."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from dstrain.guard.blackbox import Record, RecordFile
from dstrain.guard.machine import boot_id

TOKENS_A_STEP, TOKENS_PER_S = 4096, 8192.0


def run_folder(path: Path, step: int = 120, steps: int = 600, checkpoint: int | None = 100) -> Path:
    """A run that has come so far, half a second a step."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(f"run: {{name: {path.name}, dir: runs, steps: {steps}}}\n")
    with open(path / "metrics.jsonl", "w") as file:
        for number in range(max(1, step - 300), step + 1):
            file.write(json.dumps(line(number)) + "\n")
    if checkpoint is not None:
        (path / "checkpoints" / f"step_{checkpoint:08d}").mkdir(parents=True)
        (path / "checkpoints" / "latest").write_text(f"step_{checkpoint:08d}\n")
    return path


def line(step: int) -> dict:
    return {"step": step, "loss": max(2.0, 5.0 - step / 1000), "terms": {"next": 5.0}, "lr": 0.001, "grad_norm": 0.5,
            "tokens": step * TOKENS_A_STEP, "tokens_per_s": TOKENS_PER_S, "data_wait": 0.0, "skipped": False}


def lock(path: Path, pid: int, host: str | None = None, job: str | None = None, started: int | None = None) -> None:
    said = {"pid": pid, "host": host or socket.gethostname(), "user": "u", "since": "2026-01-01", "slurm_job": job,
            "command": "dstrain train", "boot": boot_id(), "started": started}
    (path / ".lock").write_text(json.dumps(said))


def black_box(path: Path, host: str = "n1", world: int = 1, **fields) -> None:
    (path / "blackbox").mkdir(exist_ok=True)
    for rank in range(world):
        file = RecordFile(path, rank)
        file.write(Record(rank=rank, world=world, host=host, pid=2**22 + rank, boot_id="elsewhere", attempt="a",
                          started=time.time() - 60, at=time.time(), **fields))
        file.close()


def age(path: Path, seconds: float) -> None:
    """As if all of it had been written so long ago."""
    at = time.time() - seconds
    for below in [*path.rglob("*"), path]:
        if not below.is_symlink():
            os.utime(below, (at, at))

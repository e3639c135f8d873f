"""The run folder runs/NAME/: what stands where, and how its side files are cut back to a checkpoint's step."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from pathlib import Path
from typing import IO, Any

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe


class RunFolder:
    """The paths of one run."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.ledger = self.path / "ledger.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.recipe = self.path / "recipe.yaml"
        self.ds_config = self.path / "ds_config.json"
        self.environment = self.path / "environment.json"
        self.tokenizer = self.path / "tokenizer"

    @staticmethod
    def of(recipe: Recipe) -> "RunFolder":
        return RunFolder(Path(recipe.run.dir) / recipe.run.name)

    def has_training(self) -> bool:
        """Whether something would be lost by starting over."""
        return self.checkpoints.is_dir() or self.metrics.is_file()

    def clear(self) -> None:
        """Remove what dstrain wrote, and nothing else."""
        for path in (self.checkpoints, self.tensorboard, self.tokenizer):
            if path.exists():
                shutil.rmtree(path)
        for path in (self.metrics, self.ledger, self.recipe, self.ds_config, self.environment):
            path.unlink(missing_ok=True)

    def make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run folder {self.path}: {error.strerror}; "
                            "choose another place with run.dir=...") from None

    def lock(self) -> IO:
        """Keep other trainings out of this folder until the file that is returned is closed, or this process ends."""
        self.make()
        try:
            file = open(self.path / ".lock", "a+")
        except OSError as error:
            raise UserError(f"run folder {self.path}: {error.strerror}; "
                            "choose another place with run.dir=...") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UserError(f"{self.path} is being trained by {file.read().strip() or 'another process'}: "
                            "wait for it, stop it, or choose another run.name") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        return file

    def cut_to(self, step: int) -> int:
        """Drop what was recorded after `step`: the run goes on from there. Says how many steps that were."""
        dropped = 0
        if step == 0:
            shutil.rmtree(self.tensorboard, ignore_errors=True)
        for path in (self.metrics, self.ledger):
            if path.is_file():
                lines = read_lines(path)
                kept = [line for line in lines if line["step"] <= step]
                _keep_lines(path, kept)
                dropped = max(dropped, len({line["step"] for line in lines} - {line["step"] for line in kept}))
        return dropped


def read_lines(path: Path) -> list[dict]:
    """The JSON objects of a .jsonl file; a torn last line is normal after a kill and is left out."""
    lines = path.read_bytes().split(b"\n")
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1:
                raise UserError(f"{path}, line {number}: not JSON; restore the file or move it away") from None
    return objects


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _keep_lines(path: Path, objects: list[dict]) -> None:
    new = path.with_name(path.name + ".cut")
    new.write_text("".join(json.dumps(line) + "\n" for line in objects))
    os.replace(new, path)

"""The run folder runs/NAME/: what stands where, and how its side files are cut back to a checkpoint's step."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Callable

from dstrain.config.errors import Trouble, UserError
from dstrain.config.os_errors import in_words
from dstrain.config.schema import Recipe
from dstrain.guard.lock_record import holder, in_words as holder_in_words
from dstrain.runtime.checkpoint.fence import Fence
from dstrain.runtime.checkpoint.folder import HAS_COMMITTED, bring_back
from dstrain.train.folder_lock import FolderLock


LOOKS_EVERY_S = 1.0


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
        self.endings = self.path / "endings.jsonl"
        self.tokenizer = self.path / "tokenizer"

    @staticmethod
    def of(recipe: Recipe) -> "RunFolder":
        return RunFolder(Path(recipe.run.dir) / recipe.run.name)

    def has_training(self) -> bool:
        """Whether something would be lost by starting over."""
        return self.checkpoints.is_dir() or self.metrics.is_file() or (self.path / HAS_COMMITTED).exists()

    def clear(self) -> None:
        """Remove what dstrain wrote, and nothing else."""
        with in_words("clear the run folder", self.path):
            for path in (self.checkpoints, self.tensorboard, self.tokenizer):
                if path.is_dir():
                    for child in path.iterdir():  # the folder itself may be a link to a larger disk: it stays one
                        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
                elif path.is_symlink() or path.exists():
                    path.unlink()
            for path in (self.metrics, self.ledger, self.recipe, self.ds_config, self.environment, self.endings,
                         self.path / HAS_COMMITTED):
                path.unlink(missing_ok=True)

    def make(self) -> None:
        with in_words("use the run folder", self.path, "run.dir=..."):
            self.path.mkdir(parents=True, exist_ok=True)

    def lock(self, say: Callable[[str], None] = lambda line: None) -> FolderLock:
        """Keep other trainings out of this folder until what is returned is closed, or this process ends."""
        self.make()
        with in_words("use the run folder", self.path, "run.dir=..."):
            lock = FolderLock(self.path, say)
            try:
                bring_back(self.checkpoints, say)  # from here on no earlier start can publish: see fence.py
            except BaseException:
                lock.close()
                raise
            return lock

    def cut_to(self, step: int) -> int:
        """Drop what was recorded after `step`: the run goes on from there. Says how many steps that were."""
        dropped = 0
        if step == 0 and self.tensorboard.exists():
            shutil.rmtree(self.tensorboard)
        for path in (self.metrics, self.ledger):
            if path.is_file():
                lines = read_lines(path)
                if not all(type(line.get("step")) is int for line in lines):
                    raise UserError(f"{path} has a line without its step, which no record is; restore it, or move it "
                                    "away")
                kept = [line for line in lines if line["step"] <= step]
                _keep_lines(path, kept)
                dropped = max(dropped, len({line["step"] for line in lines} - {line["step"] for line in kept}))
        return dropped


class Footing:
    """The folder that a run began in, and whether its path still leads there, and it is still this start's.

    A folder that is removed, moved or unmounted while a run writes to it takes open files with it without a word, and a
    save would begin a fresh folder in its place.
    """

    def __init__(self, folder: RunFolder, lock: FolderLock | None = None):
        self._folder = folder
        self._place, there = self._look()
        self._holder = there if lock is None else lock.record
        self._looked_at = time.monotonic()

    @property
    def fence(self) -> Fence:
        return Fence(self._holder.get("attempt", ""), self.check)

    def look(self) -> None:
        """Whether it is still this start's, asked once a second at most. For each step; `check` is for each write."""
        if time.monotonic() - self._looked_at >= LOOKS_EVERY_S:
            self._looked_at = time.monotonic()
            self._check_holder(holder(self._folder.path))

    def check(self) -> None:
        path, again = self._folder.path, ("nothing more is written. Where it comes back, the same command goes on from "
                                          "its last checkpoint; where it is gone for good, from the start")
        try:
            place, there = self._look()
        except OSError as error:
            raise Trouble(f"run folder {path} was removed, moved or unmounted while it was trained "
                          f"({error.strerror}): {again}") from error
        if place != self._place:
            raise Trouble(f"another folder has taken the place of run folder {path} while it was trained: {again}")
        self._check_holder(there)

    def _check_holder(self, there: dict) -> None:
        if not there:  # nobody says so, or it is being written just now
            return
        path, asked_by = self._folder.path, there.get("asked_by")
        if {**there, "asked_by": None} != {**self._holder, "asked_by": None}:
            by = holder_in_words(there)
            raise Trouble(f"{path} is being trained by {by} by now: this run leaves the folder to it")
        if asked_by is not None:
            raise Trouble(f"a later start of this Slurm job ({asked_by}) wants to go on in {path}: this one leaves the "
                          "folder to it, and publishes nothing more")

    def _look(self) -> tuple[tuple[int, int], dict]:
        """Which folder it is, and who says to train in it."""
        there = os.stat(self._folder.path)
        return (there.st_dev, there.st_ino), holder(self._folder.path)


def read_lines(path: Path) -> list[dict]:
    """The JSON objects of a .jsonl file; a torn last line is normal after a kill and is left out."""
    lines = path.read_bytes().split(b"\n")
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
            if not isinstance(objects[-1], dict):
                raise UserError(f"{path}, line {number}: {line[:60]!r} is not a record; restore the file or move it "
                                "away")
        except ValueError:
            if number < len(lines) - 1:
                raise UserError(f"{path}, line {number}: not JSON; restore the file or move it away") from None
    return objects


def replace(path: Path, text: str) -> None:
    """A small file's new contents, in one step: killed, or on a full disk, what was there stays."""
    with open(beside(path), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside(path), path)


def beside(path: Path) -> Path:
    """Where its new contents stand until they are whole."""
    return path.with_name(f".{path.name}")


def write_json(path: Path, value: Any) -> None:
    replace(path, json.dumps(value, indent=1) + "\n")


def _keep_lines(path: Path, objects: list[dict]) -> None:
    replace(path, "".join(json.dumps(line) + "\n" for line in objects))

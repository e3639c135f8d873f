"""Where a run stands, read from its folder: cheap, read-only, and content with whatever is there.

Lines may be torn, files missing or of an older version: what cannot be read is not known, and the rest is said.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dstrain.cluster.holder import Holder, holder_of
from dstrain.cluster.job_notes import noted_jobs
from dstrain.guard.blackbox import Record, read_records
from dstrain.guard.postmortem import Ending, earlier_endings, find_ending

TAIL_BYTES = 65_536
_NEWEST_LINES = 50
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Look:
    """None, or empty: not known."""

    folder: Path
    step: int | None
    steps: int | None
    loss: float | None
    tokens_per_s: float | None
    left_s: float | None
    """training time until the last step, at that speed; validations and saves come on top"""
    checkpoint_step: int | None
    checkpoint_age_s: float | None
    sign_age_s: float | None
    """since anything was written by the training"""
    holder: Holder | None
    noted: tuple[str, ...]
    """jobs that were submitted for it"""

    @property
    def is_finished(self) -> bool:
        return self.step is not None and self.steps is not None and self.step >= self.steps


def is_run_folder(path: Path) -> bool:
    signs = ("recipe.yaml", "metrics.jsonl", "checkpoints", "slurm/jobs.jsonl")
    return any(os.path.exists(path / name) for name in signs)


def look_at(folder: Path) -> Look:
    lines = [line for line in tail(folder / "metrics.jsonl") if _is_of_training(line)][-_NEWEST_LINES:]
    records = _records(folder)
    now, signs = time.time(), [_age_of(folder / "metrics.jsonl")]
    signs += [_age_of(folder / "blackbox" / f"rank_{record.rank:05d}.json") for record in records[:1]]
    step = max([line["step"] for line in lines[-1:]] + [record.step for record in records], default=None)
    steps = _steps(folder)
    tokens_per_s, step_s = _speed(lines)
    left_s = None if None in (step, steps, step_s) else max(0, steps - step) * step_s
    name, checkpoint_at = _checkpoint(folder)
    return Look(folder=folder, step=step, steps=steps, loss=_number(lines[-1].get("loss")) if lines else None,
                tokens_per_s=tokens_per_s, left_s=left_s, checkpoint_step=int(name[5:]) if name else None,
                checkpoint_age_s=None if checkpoint_at is None else max(0.0, now - checkpoint_at),
                sign_age_s=min((age for age in signs if age is not None), default=None),
                holder=holder_of(folder), noted=tuple(noted_jobs(folder)))


def ending_of(folder: Path) -> Ending | None:
    """Of the newest attempt, where nobody trains there any more."""
    try:
        found = find_ending(folder, alive=lambda _, records: (records, set()))
        return found or next(reversed(earlier_endings(folder)), None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # of another version, or half written
        return None


def tail(path: Path, size: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file's last lines."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _is_of_training(line: dict) -> bool:
    return "split" not in line and type(line.get("step")) is int and "loss" in line


def _records(folder: Path) -> list[Record]:
    """Of the newest attempt's ranks, those that can be read."""
    try:
        records = [record for record in read_records(folder) if type(record.step) is int]
        newest = max(records, key=lambda record: record.started).attempt if records else ""
    except (OSError, ValueError, TypeError):
        return []
    return [record for record in records if record.attempt == newest]


def _speed(lines: list[dict]) -> tuple[float | None, float | None]:
    """(scored targets a second, seconds a step) over the newest lines."""
    took_s, scored, steps = 0.0, 0, 0
    for before, line in zip(lines, lines[1:]):
        tokens, rate = (_number(line.get(key)) for key in ("tokens", "tokens_per_s"))
        first = _number(before.get("tokens"))
        if tokens is not None and first is not None and rate and tokens >= first and line["step"] > before["step"]:
            took_s, scored, steps = took_s + (tokens - first) / rate, scored + tokens - first, steps + 1
    if took_s > 0:
        return scored / took_s, took_s / steps
    return (_number(lines[-1].get("tokens_per_s")) if lines else None), None


def _steps(folder: Path) -> int | None:
    """As it trains; of a run that has not begun, as it was submitted."""
    submitted = sorted((folder / "slurm").glob("recipe_*.yaml"))[-1:]
    for path in (folder / "recipe.yaml", *submitted):
        try:
            found = yaml.load(path.read_bytes(), Loader=_LOADER)["run"]["steps"]
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            continue
        if type(found) is int:
            return found
    return None


def _checkpoint(folder: Path) -> tuple[str | None, float | None]:
    """The newest one's name, and when it was committed."""
    try:
        name = (folder / "checkpoints" / "latest").read_text(errors="replace").strip()
        if re.fullmatch(r"step_\d{8,16}", name):
            return name, (folder / "checkpoints" / name).stat().st_mtime
    except OSError:  # no save yet, or this very moment another takes its place
        return None, None
    return None, None


def _age_of(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

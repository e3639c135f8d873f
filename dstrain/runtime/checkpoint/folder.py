"""The folder checkpoints/: which are committed, which is the newest, the best; what is removed. No torch here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable

from dstrain.runtime.checkpoint.disk import sync_folder, write_synced
from dstrain.runtime.checkpoint.manifest import verify


def newest_good(folder: Path, ranks: Any, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are what its manifest says; the first rank looks, all get its answer."""
    found = None
    if ranks.first:
        for candidate in reversed(committed(folder)):
            fault = verify(candidate)
            if fault is None:
                found = candidate
                break
            say(f"checkpoint {candidate} is damaged and passed over: {fault}")
    return ranks.share(found)


def committed(folder: Path) -> list[Path]:
    """All published checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_" + "[0-9]" * 8) if path.is_dir()) if folder.is_dir() else []


def go_on_from(found: Path, best_step: int | None, say: Callable[[str], None]) -> None:
    """Bring the folder to where the run goes on: later checkpoints, all damaged, aside; pointers as at that step."""
    folder = found.parent
    for later in committed(folder):
        if later.name > found.name:
            aside = folder / f"damaged_{later.name}"
            shutil.rmtree(aside, ignore_errors=True)
            later.rename(aside)
            say(f"moved {later} to {aside.name}: remove it when you have looked at it")
    point(folder, "latest", found.name)
    best = None if best_step is None else folder / step_name(best_step)
    if best is not None and best.is_dir():
        point(folder, "best", best.name)
    else:
        (folder / "best").unlink(missing_ok=True)


def point(folder: Path, pointer: str, name: str) -> None:
    """Let folder/pointer name a checkpoint, in one step: a reader sees the old name or the new one."""
    write_synced(folder / f".{pointer}", name + "\n")
    os.replace(folder / f".{pointer}", folder / pointer)
    sync_folder(folder)


def pointed(folder: Path, pointer: str) -> Path | None:
    """The checkpoint that folder/pointer names, if it is there."""
    path = folder / pointer
    name = path.read_text().strip() if path.is_file() else ""
    return folder / name if name and (folder / name).is_dir() else None


def prune(folder: Path, keep: int, say: Callable[[str], None]) -> None:
    """Remove all but the newest `keep` and the best."""
    best = pointed(folder, "best")
    for old in committed(folder)[:-keep]:
        if old != best:
            try:
                shutil.rmtree(old)
            except OSError as error:  # no reason to end the run; the next save tries again
                say(f"{old} could not be removed: {error}")


def step_name(step: int) -> str:
    return f"step_{step:08d}"

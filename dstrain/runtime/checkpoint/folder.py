"""The folder checkpoints/: which are committed, which is the newest, the best; what is removed. No torch here."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, Callable, TypeVar

from dstrain.config.errors import Trouble, UserError
from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.fence import Fence
from dstrain.runtime.checkpoint.manifest import Damaged, Unreadable, first_fault, promises, share_of

MAKING = ".making_"
"""what a save that is under way, or was killed, is called before its step"""
SET_ASIDE = ".replaced_"
"""what a committed checkpoint is called while another of the same step takes its place"""
DAMAGED = "damaged_"
"""what a later checkpoint that could not be loaded is called, once the run has gone on from an earlier one"""
REMOVING = ".removing_"
"""what a checkpoint is called while it is removed: half of one looks damaged under its own name"""
HAS_COMMITTED = ".has_committed"
"""a file of the run folder: there have been checkpoints, so their absence is a fault and not a beginning"""
READ_AGAIN_AFTER_S = (0.5, 1.5, 4.0)
"""a network disk may fail for a moment"""
T = TypeVar("T")


def newest_good(folder: Path, ranks: Any, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are what its manifest says; all ranks look together, each at its share.

    None where there is none. What cannot be read may be good: that is Trouble, and nothing older is taken in its place.
    """
    with ranks.together(f"looking into {folder}"), disk.in_words(f"look into {folder}", folder.parent):
        there = committed(folder) if ranks.first else []
        if ranks.first and not there:
            _refuse_what_is_no_beginning(folder)
    for candidate in reversed(ranks.share(there)):
        fault = _fault_found_together(candidate, ranks)
        if fault is None:
            return candidate
        say(f"checkpoint {candidate} is damaged and passed over: {fault}")
    return None


def committed(folder: Path) -> list[Path]:
    """All published checkpoints, oldest first; one that was set aside, where its successor never came, among them."""
    if not folder.is_dir():
        return []
    digits = "step_" + "[0-9]" * 8
    found = [path for path in folder.glob(digits) if path.is_dir()]
    found += [path for path in folder.glob(SET_ASIDE + digits)
              if path.is_dir() and not (folder / path.name.removeprefix(SET_ASIDE)).exists()]
    return sorted(found, key=step_of)


def mark_committed(folder: Path) -> None:
    """From now on a run folder without checkpoints is one that lost them."""
    mark = folder.parent / HAS_COMMITTED
    if not mark.exists():
        disk.write_file(mark, b"checkpoints were committed here\n")
        disk.sync_folder(folder.parent)


def bring_back(folder: Path, say: Callable[[str], None], start: str = "") -> None:
    """Undo a replacement that was broken off, and remove what a killed save or removal left behind.

    Only for who trains here: its lock keeps others from saving. `start`: of the saves, this start's alone.
    """
    if not folder.is_dir():
        return
    for aside in list(folder.glob(SET_ASIDE + "step_*")):
        final = folder / aside.name.removeprefix(SET_ASIDE)
        if final.exists():
            _remove(aside, say)
        else:
            disk.rename(aside, final)
            disk.sync_folder(folder)
    for left_behind in [*folder.glob(f"{MAKING}*{_own(start)}"), *folder.glob(REMOVING + "*")]:
        _remove(left_behind, say)


def go_on_from(folder: Path, step: int, best_step: int | None, say: Callable[[str], None],
               fence: Fence = Fence()) -> None:
    """Bring the folder to where the run goes on: later checkpoints, all damaged, aside; pointers as at that step."""
    for later in committed(folder):
        if step_of(later) > step:
            aside = _free_name(folder / f"{DAMAGED}{later.name}")
            disk.rename(later, aside)
            disk.sync_folder(folder)
            say(f"moved {later} to {aside.name}: remove it when you have looked at it")
    point(folder, "latest", step_name(step), fence)
    best = None if best_step is None else folder / step_name(best_step)
    if best is not None and best.is_dir():
        point(folder, "best", best.name, fence)
    elif (folder / "best").exists():
        disk.remove_file(folder / "best")
        disk.sync_folder(folder)


def making_name(name: str, start: str) -> str:
    """What a checkpoint or a pointer is called while this start makes it."""
    return f"{MAKING}{name}{_own(start)}"


def point(folder: Path, pointer: str, name: str, fence: Fence = Fence()) -> None:
    """Let folder/pointer name a checkpoint, in one step: a reader sees the old name or the new one."""
    disk.replace_with(folder / pointer, f"{name}\n".encode(), folder / making_name(pointer, fence.start), fence.check)


def pointed(folder: Path, pointer: str) -> Path | None:
    """The checkpoint that folder/pointer names, if it is there."""
    path = folder / pointer
    with disk.named(path):
        name = path.read_bytes().decode(errors="replace").strip() if path.is_file() else ""
    return next((there for there in committed(folder) if there.name == name), None)


def prune(folder: Path, keep: int, say: Callable[[str], None]) -> None:
    """Remove all but the newest `keep`, of which the last was written just now, and the best."""
    best = pointed(folder, "best")
    for old in committed(folder)[:-keep]:
        if old != best:
            _remove(old, say)


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("_")[2])


def _fault_found_together(checkpoint: Path, ranks: Any) -> str | None:
    """The first rank reads the manifest; every rank hashes its share of the pieces."""
    promised, fault = {}, None
    with ranks.together(f"reading {checkpoint}"):
        if ranks.first:
            try:
                promised = _patiently(lambda: promises(checkpoint), checkpoint)
            except Damaged as damage:
                fault = str(damage)
    promised, fault = ranks.share((promised, fault))
    if fault is not None:
        return fault
    own = {piece: promised[piece] for piece in share_of(promised, ranks.rank, ranks.world)}
    with ranks.together(f"reading {checkpoint}"):
        fault = _patiently(lambda: first_fault(checkpoint, own), checkpoint)
    return next((fault for fault in ranks.gather(fault) if fault is not None), None)


def _patiently(read: Callable[[], T], checkpoint: Path) -> T:
    for pause_s in READ_AGAIN_AFTER_S:
        try:
            return read()
        except Unreadable:
            time.sleep(pause_s)
    try:
        return read()
    except Unreadable as fault:
        raise Trouble(f"checkpoint {checkpoint} cannot be read on {socket.gethostname()}: {fault}. It may be good: see "
                      "to the disk, and the same command goes on from it. Only if it is lost, move it elsewhere: the "
                      "run then goes on from the one before it") from fault


def _refuse_what_is_no_beginning(folder: Path) -> None:
    """A checkpoints/ that is not there, in a run that has had some, is a disk that is not mounted, or a mistake."""
    back = "bring it back and the same command goes on; or start over with --fresh"
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder} is a link to {folder.readlink()}, which is not there: {back}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} must be a folder, but something else has its name: {back}")
    if (folder.parent / HAS_COMMITTED).exists() or any(folder.glob(DAMAGED + "step_*")):
        raise UserError(f"{folder} holds no checkpoint any more, but this run has had some: {back}")


def _remove(old: Path, say: Callable[[str], None]) -> None:
    """What cannot be removed is no reason to end a run: the next save tries again."""
    try:
        gone = old if old.name.startswith(REMOVING) else old.with_name(REMOVING + old.name)
        if gone != old:  # at once, so that nobody can publish a half of it either
            disk.rename(old, gone)
        if gone.is_dir():
            disk.remove_tree(gone)
        else:  # a pointer that was being made
            disk.remove_file(gone)
    except OSError as error:
        say(f"{old} could not be removed: {error.strerror or error}")


def _own(start: str) -> str:
    return f".{start}" if start else ""


def _free_name(path: Path) -> Path:
    """This path, or the first of path_2, path_3 ... that is not taken."""
    number = 1
    while (free := path if number == 1 else path.with_name(f"{path.name}_{number}")).exists():
        number += 1
    return free

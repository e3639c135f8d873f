"""`dstrain verify`: is every checkpoint of a run, to the last byte, what was written? Without torch."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.runtime.checkpoint.disk import in_units
from dstrain.runtime.checkpoint.folder import DAMAGED, MAKING, committed, pointed, step_of
from dstrain.runtime.checkpoint.manifest import MANIFEST, verify


def verify_command(run: Path) -> int:
    """A line a checkpoint; 1 if one that could be loaded is damaged."""
    folder, checkpoints = _to_look_at(run)
    named = {name: pointed(folder, name) for name in ("latest", "best")}
    sizes = {checkpoint: _bytes_of(checkpoint) for checkpoint in checkpoints}
    progress, began = _Progress(sum(sizes.values())), time.perf_counter()
    damaged = 0
    for checkpoint in checkpoints:
        fault = verify(checkpoint, progress.hashed)
        progress.clear()
        if fault is not None and not checkpoint.exists():
            print(f"step {step_of(checkpoint):>8}  removed meanwhile by the training")
            continue
        damaged += fault is not None
        names = [name for name, checkpoint_named in named.items() if checkpoint_named == checkpoint]
        print(f"step {step_of(checkpoint):>8}  {in_units(sizes[checkpoint]):>10}  "
              + ("good" if fault is None else f"DAMAGED: {fault}") + (f"  ({', '.join(names)})" if names else ""))
    took_s = time.perf_counter() - began
    for aside in sorted(folder.glob(f"{DAMAGED}step_*")):
        print(f"{aside.name}: set aside as damaged, never loaded; remove it when you have looked at it")
    for unfinished in sorted(folder.glob(f"{MAKING}step_*")):
        print(f"{unfinished.name}: a save that is under way or was broken off, never loaded")
    print(f"{len(checkpoints)} checkpoint(s), {f'{damaged} damaged' if damaged else 'all good'}; "
          f"{in_units(progress.done)} read in {took_s:.1f} s ({in_units(progress.done / max(took_s, 1e-9))}/s)")
    return int(damaged > 0)


def _to_look_at(run: Path) -> tuple[Path, list[Path]]:
    """checkpoints/ and what is in it; `run` may also be one checkpoint."""
    if run.name.startswith("step_") and ((run / MANIFEST).exists() or run.parent.name == "checkpoints"):
        if run.is_dir():
            return run.parent, [run]
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{run} is not a run folder: it has no checkpoints/; name one such as runs/quickstart")
    found = committed(folder)
    if not found:
        raise UserError(f"{folder} has no checkpoint yet: there is nothing to verify")
    return folder, found


def _bytes_of(checkpoint: Path) -> int:
    try:
        return sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    except FileNotFoundError:  # removed by the training while we look
        return 0


class _Progress:
    """Of what takes long: shown on a terminal, after a second."""

    def __init__(self, size: int):
        self.size, self.done = size, 0
        self._next = time.perf_counter() + 1.0
        self._shown = False
        self._lock = threading.Lock()

    def hashed(self, size: int) -> None:
        """Called by many threads."""
        with self._lock:
            self.done += size
            if sys.stdout.isatty() and time.perf_counter() >= self._next:
                share = min(100, int(100 * self.done / max(1, self.size)))
                print(f"\r{share:>3} % of {in_units(self.size)} read", end="", flush=True)
                self._shown, self._next = True, time.perf_counter() + 0.2

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="")
            self._shown = False

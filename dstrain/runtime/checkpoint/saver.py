"""Saves a run: the training stalls for a snapshot; writing, hashing and publishing go on beside it.

Every rank has one writer thread, and the writers agree among themselves through a group of their own, so nothing of
theirs can be mixed up with the training's collectives. What became of a save is told to the training by `failed`, which
every step's all-reduce carries to all ranks: they end together, at the same step.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Callable

from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.folder import point, prune
from dstrain.runtime.checkpoint.saving import Buffers, Snapshot, take, write
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine

CLOSE_WAITS_S = 60.0
"""for a save that is under way when an error ends the run; after that it is left unpublished"""


class Saver:
    """One save at a time. All ranks call its methods together, but for `failed`, `news` and `close`."""

    def __init__(self, folder: Path, engine: Engine, ranks: Ranks, keep: int, background: bool, about: dict,
                 say: Callable[[str], None]):
        self.folder, self.engine, self.ranks, self.keep, self.about, self.say = folder, engine, ranks, keep, about, say
        self.last_save_s = 0.0
        """how long the last whole save took: what leaving in time must allow for"""
        self.last_stall_s = 0.0
        """how long the training waited for the last save: for the one before it, and for the snapshot"""
        self._background = background
        self._aside = ranks.aside() if background else ranks
        self._buffers = Buffers(ranks.device)
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None
        self._lines: list[str] = []

    def save(self, state: dict, write_side_files: Callable[[Path], None], is_best: bool) -> None:
        """Commit a checkpoint of this moment. Training may go on when this returns."""
        began = time.monotonic()
        self.finish()
        snapshot = take(self.engine, state, self.about, self._buffers)
        self._writer = threading.Thread(target=self._write, args=(snapshot, write_side_files, is_best, began),
                                        daemon=True, name="saver")
        self._writer.start()
        if not self._background:
            self.finish()
        self.last_stall_s = time.monotonic() - began

    @property
    def failed(self) -> bool:
        """Whether the save that is, or was, under way has failed. Another rank may know it a little later."""
        return self._error is not None

    def news(self) -> None:
        """Say what was committed since the last call."""
        while self._lines:
            self.say(self._lines.pop(0))

    def finish(self) -> None:
        """Wait for a save that is under way; if it failed on any rank, this fails on all."""
        if self._writer is None:
            return
        self._writer.join()
        self._writer = None
        self.news()
        if self._error is not None:  # the writers agreed: it failed on all ranks, each with its own words
            raise self._error

    def close(self) -> None:
        """At the end of a run, whatever ended it: a save under way gets its time, and is published whole or not."""
        if self._writer is not None:
            self._writer.join(CLOSE_WAITS_S)
            self.news()

    def _write(self, snapshot: Snapshot, write_side_files: Callable[[Path], None], is_best: bool,
               began: float) -> None:
        """The life of the writer thread."""
        try:
            saved = write(self.folder, snapshot, write_side_files, self._aside)
            what = f"tidy {self.folder}"
            with self._aside.together(what), disk.in_words(what, self.folder):
                if self._aside.first:
                    if is_best:
                        point(self.folder, "best", saved.name)
                    prune(self.folder, self.keep, self._lines.append)
            self.last_save_s = time.monotonic() - began
            self._lines.append(f"saved {saved}")
        except Exception as error:  # raised again in the training thread, by `finish`
            self._error = error

"""Saves a run: the training stalls for a snapshot; writing, hashing and publishing go on beside it.

Every rank has one writer thread, and the writers agree among themselves through a group of their own, so nothing of
theirs can be mixed up with the training's collectives. What became of a save is told to the training by `failed`, which
every step's all-reduce carries to all ranks: they end together, at the same step.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable

from dstrain.config.errors import Trouble, TroubleElsewhere
from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.fence import Fence
from dstrain.runtime.checkpoint.folder import bring_back, mark_committed, point, prune
from dstrain.runtime.checkpoint.saving import write
from dstrain.runtime.checkpoint.snapshot import Buffers, Snapshot, take
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine

CLOSE_WAITS_S = 60.0
"""for a save that is under way when an error ends the run; then it is discarded"""
DISCARD_WAITS_S = 3.0
"""for a writer to see that it is not wanted any more"""
SIGN_EVERY_S = 5.0
"""while the training waits for a writer that gets on"""


class Discarded(Exception):
    """The run ended before this save did."""


class Saver:
    """One save at a time. All ranks call its methods together, but for `failed`, `news` and `close`."""

    def __init__(self, folder: Path, engine: Engine, ranks: Ranks, keep: int, background: bool, about: dict,
                 say: Callable[[str], None], fence: Fence = Fence()):
        self.fence = replace(fence, start=ranks.share(fence.start))  # all ranks write under the first one's name
        self.folder, self.engine, self.ranks, self.keep, self.about, self.say = folder, engine, ranks, keep, about, say
        self.last_stall_s = 0.0
        """how long the training waited for the last save: for the one before it, and for the snapshot"""
        self._last_save_s, self._began = 0.0, 0.0
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        self._unwanted, self._looks = False, 0
        self._has_saved = folder.is_dir()
        self._lines: list[str] = []
        self._aside, self._buffers = ranks, None
        with ranks.together(f"tidying {folder}"):
            if ranks.first:
                bring_back(folder, say, fence.start)
            if background:
                self._buffers = Buffers(engine)
        if background:
            self._aside = ranks.aside()

    def save(self, state: dict, write_side_files: Callable[[Path], None], is_best: bool) -> None:
        """Commit a checkpoint of this moment. Training may go on when this returns."""
        began = time.monotonic()
        self.finish()
        snapshot, self._began = take(self.engine, state, self.about, self._buffers), began
        if self._buffers is None:
            self._write(snapshot, write_side_files, is_best)
            self.news()
        else:
            self._writer = _started(self._live, snapshot, write_side_files, is_best)
        self.last_stall_s = time.monotonic() - began

    @property
    def failed(self) -> bool:
        """Whether the save that is, or was, under way has failed. Another rank may know it a little later."""
        return self._error is not None

    @property
    def last_save_s(self) -> float:
        """How long a whole save takes, with what is left of one that is under way: what leaving in time needs."""
        if self._writer is None or not self._writer.is_alive():
            return self._last_save_s
        so_far_s = time.monotonic() - self._began
        return max(self._last_save_s, so_far_s) + max(0.0, self._last_save_s - so_far_s)

    def news(self) -> None:
        """Say what was committed since the last call."""
        while self._lines:
            self.say(self._lines.pop(0))

    def finish(self) -> None:
        """Wait for a save that is under way; if it failed on any rank, this fails on all."""
        if self._writer is None:
            return
        self._wait_for_writer()
        self._writer = None
        self.news()
        failed = self.ranks.gather(self.failed)
        if self._error is not None:  # mostly on all ranks, for the writers agree: each has its own words, one says them
            raise self._error
        if any(failed):
            raise TroubleElsewhere(f"saving in {self.folder} failed on rank {failed.index(True)}")

    def close(self) -> None:
        """At the end of a run, whatever ended it: a save under way is published whole, or not at all.

        After an error it gets its time, which ends early where a rank is gone. Ctrl-C does not wait for it.
        """
        if self._writer is None:
            return
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            self._writer.join(CLOSE_WAITS_S)
        self._unwanted = True
        self._writer.join(DISCARD_WAITS_S)
        self.news()

    def _live(self, snapshot: Snapshot, write_side_files: Callable[[Path], None], is_best: bool) -> None:
        """The writer thread, from begin to end."""
        try:
            self._write(snapshot, write_side_files, is_best)
        except BaseException as error:  # raised again in the training thread, by `finish`
            self._error = error

    def _write(self, snapshot: Snapshot, write_side_files: Callable[[Path], None], is_best: bool) -> None:
        what = f"save in {self.folder}"
        with self._aside.together(what), disk.in_words(what, self.folder.parent):
            if self._has_saved and self._aside.first and not self.folder.is_dir():
                self._lines.append(f"{self.folder} was removed or moved while the run trained: it is made again, and "
                                   "this checkpoint is the first in it")
        saved = write(self.folder, snapshot, write_side_files, self._aside, self._lines.append, self._look_up,
                      self.fence)
        what = f"tidy {self.folder}"
        with self._aside.together(what), disk.in_words(what, self.folder):
            if self._aside.first:
                mark_committed(self.folder)
                if is_best:
                    point(self.folder, "best", saved.name, self.fence)
                self.fence.check()
                prune(self.folder, self.keep, self._lines.append)
        self._last_save_s, self._has_saved = time.monotonic() - self._began, True
        self._lines.append(f"saved {saved}")

    def _wait_for_writer(self) -> None:
        """As long as it gets on, this rank is seen to be alive, too."""
        seen = self._looks
        while self._writer.is_alive():
            self._writer.join(SIGN_EVERY_S)
            if self._looks != seen:
                seen = self._looks
                self.ranks.pulse.enter(self.ranks.pulse.phase, f"waiting for the writer, {seen} parts done")

    def _look_up(self) -> None:
        self._looks += 1
        if self._unwanted:
            raise Discarded()


def _started(live: Callable[..., None], *arguments: object) -> threading.Thread:
    writer = threading.Thread(target=live, args=arguments, daemon=True, name="saver")
    try:
        writer.start()
    except RuntimeError as error:
        raise Trouble(f"cannot start the thread that saves beside the training: {error}; allow more processes "
                      "(ulimit -u), or save in the training's own time with checkpoint.background=false") from error
    return writer

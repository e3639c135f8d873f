"""Saves a run: a snapshot now, writing and publishing beside the training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable

from dstrain.runtime.checkpoint.folder import point, prune
from dstrain.runtime.checkpoint.saving import save
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine


class Saver:
    """One save at a time. All ranks call its methods together, but for `failed` and `news`."""

    def __init__(self, folder: Path, engine: Engine, ranks: Ranks, keep: int, background: bool,
                 say: Callable[[str], None]):
        self.folder, self.engine, self.ranks, self.keep, self.say = folder, engine, ranks, keep, say
        self.last_save_s = 0.0
        """how long the last whole save took: what leaving in time must allow for"""

    def save(self, state: dict, write_side_files: Callable[[Path], None], is_best: bool) -> None:
        """Commit a checkpoint of this moment. Training may go on when this returns."""
        began = time.monotonic()
        saved = save(self.folder, self.engine, state, write_side_files, self.ranks)
        with self.ranks.together(f"tidying {self.folder}"):
            if self.ranks.first:
                if is_best:
                    point(self.folder, "best", saved.name)
                prune(self.folder, self.keep, self.say)
        self.last_save_s = time.monotonic() - began
        self.say(f"saved {saved}")

    @property
    def failed(self) -> bool:
        """Whether a save that was under way has failed."""
        return False

    def news(self) -> None:
        """Say what was committed since the last call; asks nobody."""

    def finish(self) -> None:
        """Wait for a save that is under way; if it failed, this fails on all ranks."""

    def close(self) -> None:
        """At the end of a run, whatever ended it: nothing is left half done."""

"""One training a run folder: a lock that ends with its process, however that ends, and says who holds it.

A requeued Slurm job may meet an earlier start of itself, still alive on a node that the controller lost. That one is
asked to leave; where it does not, the folder is taken over: .lock says from then on whose the folder is, and what a
start publishes it publishes only as long as that is itself (runtime/checkpoint/fence.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Callable

from dstrain.config.errors import UserError
from dstrain.guard.lock_record import (
    LOCK_NAME, ask_to_leave, holder, in_words, is_alive_here, is_earlier_start, myself, write)

LEAVES_WITHIN_S = 60.0
"""so long an earlier start of the same job may take to leave before the folder is taken over"""
_LOOKS_EVERY_S = 0.2
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_WRITES_ITS_NAME_WITHIN_S = 0.2


class FolderLock:
    """Held from when it is made until `close`, or until this process ends. An OSError where the file cannot be used.

    The file system keeps the lock: what a killed run leaves in the file bars nobody. A file system that cannot lock is
    no reason not to train: `warning` says so then, the name in the file keeps out a second run of the same machine, and
    whoever comes later from another machine is noticed by the run that was here before, which ends (see Footing).
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda line: None):
        self.warning: str | None = None
        self.record = myself()
        self._file = -1
        try:
            self._take(folder, say)
            write(self._file, self.record)
        except BaseException:
            self._forget()
            raise
        # A child that outlives us (a data worker, whatever a library forks) must not go on holding it.
        os.register_at_fork(after_in_child=self._forget)

    @property
    def attempt(self) -> str:
        """Which start of the run this is."""
        return self.record["attempt"]

    def close(self) -> None:
        self._forget()

    def _forget(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _take(self, folder: Path, say: Callable[[str], None]) -> None:
        try:
            if self._is_free(folder):
                return
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                error.filename = str(folder / LOCK_NAME)
                raise
            before = holder(folder)
            if is_alive_here(before) and not is_earlier_start(before, self.record):
                raise _held(folder, before) from None
            self.warning = (f"the file system of {folder} cannot lock files ({error.strerror}): nothing keeps a second "
                            "training out of this folder, so see to it that there is one only"
                            + (f"; the last one was {in_words(before)}" if before else ""))
            return
        time.sleep(_WRITES_ITS_NAME_WITHIN_S)  # started at the same instant, it has the lock but no name yet
        before = holder(folder)
        if not is_earlier_start(before, self.record):
            raise _held(folder, before)
        self._take_over(folder, before, say)

    def _is_free(self, folder: Path) -> bool:
        """Take the lock, if nobody holds it. Between opening and locking another may have put a new file there."""
        while True:
            self._forget()
            self._file = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _HELD:
                    return False
                raise
            try:
                if os.path.samestat(os.fstat(self._file), os.stat(folder / LOCK_NAME)):
                    return True
            except FileNotFoundError:
                pass

    def _take_over(self, folder: Path, before: dict, say: Callable[[str], None]) -> None:
        """From an earlier start of this job: when it has left, or else after a while whether it has or not."""
        say(f"{folder} is still held by an earlier start of this Slurm job, {in_words(before)}: it is asked to leave")
        ask_to_leave(self._file, before, self.record)
        deadline = time.monotonic() + LEAVES_WITHIN_S
        while time.monotonic() < deadline:
            time.sleep(_LOOKS_EVERY_S)
            if self._is_free(folder):
                say("it has left: this start goes on")
                return
            now = holder(folder)
            if now and now.get("attempt") != before.get("attempt"):
                raise _held(folder, now)
        say(f"it did not leave within {LEAVES_WITHIN_S:.0f} s: this start takes {folder} over, and whatever the "
            "earlier one may still do, it publishes nothing there any more")
        write(self._file, self.record)  # first where the earlier one looks, then in a file whose lock is free
        beside = folder / f"{LOCK_NAME}_{self.attempt}"
        self._forget()
        self._file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write(self._file, self.record)
        os.rename(beside, folder / LOCK_NAME)


def _held(folder: Path, by: dict) -> UserError:
    return UserError(f"{folder} is being trained by {in_words(by)}: wait for it, stop it, or choose another run.name")

"""One training a run folder: a lock that ends with its process, however that ends, and says who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import socket
import sys
import time
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.guard.machine import boot_id, process_state

LOCK_NAME = ".lock"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_WRITES_ITS_NAME_WITHIN_S = 0.2


class FolderLock:
    """Held from when it is made until `close`, or until this process ends. An OSError where the file cannot be used.

    The file system keeps the lock: what a killed run leaves in the file bars nobody. A file system that cannot lock is
    no reason not to train: `warning` says so then, the name in the file keeps out a second run of the same machine, and
    whoever comes later from another machine is noticed by the run that was here before, which ends (see Footing).
    """

    def __init__(self, folder: Path):
        self.warning: str | None = None
        self._file = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take(folder)
            _write_whole(self._file, json.dumps(_myself()).encode() + b"\n")
        except BaseException:
            os.close(self._file)
            raise
        # A child that outlives us (a data worker, whatever a library forks) must not go on holding it.
        os.register_at_fork(after_in_child=self._forget)

    def close(self) -> None:
        if self._file >= 0:
            self._forget()

    def _forget(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                time.sleep(_WRITES_ITS_NAME_WITHIN_S)  # started at the same instant, it has the lock but no name yet
                raise _held(folder, holder(folder)) from None
            if error.errno not in _CANNOT_LOCK:
                error.filename = str(folder / LOCK_NAME)
                raise
            before = holder(folder)
            if _is_alive_here(before):
                raise _held(folder, before) from None
            self.warning = (f"the file system of {folder} cannot lock files ({error.strerror}): nothing keeps a second "
                            "training out of this folder, so see to it that there is one only"
                            + (f"; the last one was {in_words(before)}" if before else ""))


def holder(folder: Path) -> dict:
    """Who trains in this folder, or was the last to; {} where nobody says so."""
    try:
        said = json.loads((folder / LOCK_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def in_words(said: dict) -> str:
    """A holder, for people."""
    if not said:
        return "another process"
    since = f"{said.get('since')}{', Slurm job ' + str(said['slurm_job']) if said.get('slurm_job') else ''}"
    return (f"process {said.get('pid')} on {said.get('host')} (user {said.get('user')}, since {since}: "
            f"{said.get('command')})")


def _held(folder: Path, by: dict) -> UserError:
    return UserError(f"{folder} is being trained by {in_words(by)}: wait for it, stop it, or choose another run.name")


def _myself() -> dict:
    return {"pid": os.getpid(), "host": socket.gethostname(), "user": _user(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"), "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "command": " ".join(" ".join(sys.argv).split())[:300],
            "boot": boot_id(), "started": _started(os.getpid())}


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container
        return str(os.getuid())


def _is_alive_here(said: dict) -> bool:
    """Whether that very process lives on this machine; its number alone may have been given to another since."""
    return bool(said) and said.get("boot") == boot_id() != "" and isinstance(said.get("pid"), int) and (
        said.get("started") == _started(said["pid"]) is not None and process_state(said["pid"]) != "Z")


def _started(pid: int) -> int | None:
    """When a process began, in the kernel's own count; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat[stat.rindex(b")") + 2:].split()[19])


def _write_whole(file: int, text: bytes) -> None:
    """Over what a run before has left; shorter or longer, who reads finds one of the two or none."""
    os.ftruncate(file, 0)
    os.pwrite(file, text, 0)

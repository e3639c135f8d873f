"""Who trains in a run folder, seen from outside: the lock that a training holds there, and what stands in it."""

from __future__ import annotations

import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from dstrain.guard.lock_record import LOCK_NAME, holder
from dstrain.guard.machine import boot_id, process_state, started_at


@dataclass(frozen=True)
class Holder:
    """The training that holds a folder's lock, or was the last to."""

    pid: int
    host: str
    slurm_job: str | None
    boot: str
    started: int | None
    """in the kernel's own count: a process number may be given again"""

    @property
    def is_alive(self) -> bool | None:
        """None where that cannot be seen from here: it is another machine's process."""
        if not self.boot or self.boot != boot_id() or self.host != socket.gethostname():
            return None
        return process_state(self.pid) not in ("", "Z", "X") and self.started in (None, started_at(self.pid))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def holder_of(run_folder: Path) -> Holder | None:
    """None where nobody says so."""
    said = holder(run_folder)
    try:
        return Holder(int(said["pid"]), str(said["host"]), said.get("slurm_job") and str(said["slurm_job"]),
                      str(said.get("boot", "")), said.get("started"))
    except (ValueError, KeyError, TypeError):
        return None


def is_held(run_folder: Path) -> bool:
    """Whether a training holds the lock now. Not to be asked time and again: a training that starts in that very
    instant would find it taken."""
    try:
        lock = os.open(run_folder / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: nobody can say
        return False
    finally:
        os.close(lock)

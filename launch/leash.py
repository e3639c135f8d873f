"""A rank ends with what started it: it is asked to save and leave when its launcher is gone, however that came about.

Launchers end their ranks when they can. One that is killed cannot, nor one whose ssh connection broke: its ranks would
train on, with nobody to hear of it, on nodes that others are given.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

LOOK_S = 0.5
PR_SET_PDEATHSIG = 1
STDIN, STDOUT, STDERR = 0, 1, 2
OVER_SSH = "DSTRAIN_OVER_SSH"
"""set where standard input is held open by the machine that started this rank: where its process ids are written"""


def hold(environment: Mapping[str, str]) -> None:
    """Called once, early. A process that no launcher started is left alone: nohup and the like keep their meaning."""
    if "RANK" not in environment:
        return
    parent = os.getppid()
    end_with_parent(signal.SIGTERM, parent)
    if started_by_deepspeed():
        # DeepSpeed's launcher of this node knows nothing of the one that started it.
        threading.Thread(target=_watch_parent_of, args=(parent,), daemon=True, name="leash").start()
    if OVER_SSH in environment:
        own = Path(f"{environment[OVER_SSH]}.{environment['RANK']}")
        own.write_text(f"{os.getpid()}\n")
        atexit.register(own.unlink, missing_ok=True)
        threading.Thread(target=_watch_connection, args=(own,), daemon=True, name="connection").start()


def end_with_parent(number: int, parent: int) -> None:
    """Linux sends this process the signal when its parent ends. `parent`: who that was when this process began."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def started_by_deepspeed() -> bool:
    try:
        return b"deepspeed.launcher.launch" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return False


def _watch_parent_of(launcher: int) -> None:
    before = _parent_of(launcher)
    while _parent_of(launcher) == before:
        time.sleep(LOOK_S)
    _leave("the deepspeed command that started it is gone")


def _parent_of(process: int) -> int | None:
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return None
    return int(stat[stat.rindex(b")") + 2:].split()[1])


def _watch_connection(own: Path) -> None:
    """Standard input is not read, only watched: all ranks of this node share it."""
    poll = select.poll()
    poll.register(STDIN, select.POLLHUP | select.POLLERR)
    poll.poll()
    nowhere = os.open(os.devnull, os.O_WRONLY)  # what is said from now on would break on the connection
    os.dup2(nowhere, STDOUT)
    os.dup2(nowhere, STDERR)
    own.unlink(missing_ok=True)
    _leave("the connection to the machine that started it is gone")


def _leave(why: str) -> None:
    if os.environ.get("LOCAL_RANK") == "0":
        print(f"rank {os.environ['RANK']}: {why}: this node's ranks leave", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":  # leash.py COMMAND ...: in this process's place, and killed when its parent ends
    end_with_parent(signal.SIGKILL, os.getppid())
    os.execvp(sys.argv[1], sys.argv[1:])

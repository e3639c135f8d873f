"""What stands in a run folder's .lock: who trains there, and who has asked it to leave.

The file is rewritten in place, and opened anew by each reader: so other machines see it at once (NFS).
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import socket
import sys
import time
from pathlib import Path

from dstrain.guard.machine import boot_id, process_state, started_at

LOCK_NAME = ".lock"


def myself() -> dict:
    """This start of a run; `attempt` tells it from every other start."""
    return {"attempt": secrets.token_hex(6), "pid": os.getpid(), "host": socket.gethostname(), "user": _user(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"), "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "slurm_cluster": os.environ.get("SLURM_CLUSTER_NAME"),
            "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            "command": " ".join(" ".join(sys.argv).split())[:300],
            "boot": boot_id(), "started": started_at(os.getpid())}


def holder(folder: Path) -> dict:
    """Who trains in this folder, or was the last to; {} where nobody says so."""
    try:
        said = json.loads((folder / LOCK_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def is_earlier_start(said: dict, mine: dict) -> bool:
    """Whether that is a start of the very Slurm job that has been requeued since, and started as `mine`."""
    return mine["slurm_job"] is not None and all(
        said.get(name) == mine[name] for name in ("slurm_job", "slurm_cluster", "user")) and (
        isinstance(said.get("slurm_restart"), int) and said["slurm_restart"] < mine["slurm_restart"])


def is_alive_here(said: dict) -> bool:
    """Whether that very process lives on this machine; its number alone may have been given to another since."""
    return bool(said) and said.get("boot") == boot_id() != "" and isinstance(said.get("pid"), int) and (
        said.get("started") == started_at(said["pid"]) is not None and process_state(said["pid"]) != "Z")


def in_words(said: dict) -> str:
    """A holder, for people."""
    if not said:
        return "another process"
    since = f"{said.get('since')}{', Slurm job ' + str(said['slurm_job']) if said.get('slurm_job') else ''}"
    return (f"process {said.get('pid')} on {said.get('host')} (user {said.get('user')}, since {since}: "
            f"{said.get('command')})")


def ask_to_leave(file: int, said: dict, mine: dict) -> None:
    """Write beneath the holder's own words, in the open lock file, that `mine` wants the folder."""
    write(file, {**said, "asked_by": f"process {mine['pid']} on {mine['host']}, since {mine['since']}"})


def write(file: int, record: dict) -> None:
    """Over what stood there; shorter or longer, who reads finds one of the two or none."""
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(record).encode() + b"\n", 0)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container
        return str(os.getuid())

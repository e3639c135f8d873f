"""Puts a rank under an observer's eyes."""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from dstrain.config.errors import Trouble
from dstrain.guard.blackbox import RecordFile, stack_path
from dstrain.guard.observer import STACK_SIGNAL
from dstrain.guard.pulse import SharedPulse

ROOT = Path(__file__).resolve().parents[2]


def watched(run_folder: Path, rank: int, world: int, attempt: str) -> SharedPulse:
    """Start this rank's observer, once; it ends with this process. The pulse that is returned is what it sees."""
    run_folder = run_folder.resolve()
    try:
        RecordFile(run_folder, rank).close()
        stacks = open(stack_path(run_folder, rank), "w")
    except OSError as error:
        raise Trouble(f"{run_folder / 'blackbox'}: {error.strerror}; make room, or choose another place with "
                      "run.dir=...") from error
    faulthandler.enable(file=stacks, all_threads=True)  # what crashes in native code leaves its stacks, too
    faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=True)
    pulse = SharedPulse()
    what = {"run_folder": str(run_folder), "rank": rank, "world": world, "attempt": attempt, "pid": os.getpid(),
            "file": pulse.file}
    # -I -S: the standard library alone; nothing that the environment, this folder or site-packages would bring along.
    start = f"import sys; sys.path.append({str(ROOT)!r}); from dstrain.guard.observer import main; main()"
    command = [sys.executable, "-I", "-S", "-c", start, json.dumps(what)]
    # Signals that are blocked here stay blocked in the observer: it ends with its rank, and by nothing else. But it
    # stops on Ctrl-Z, as its rank does.
    blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        # Closes all other files of this process: sockets above all, whose end tells the other ranks that it is gone.
        observer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[pulse.file])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    pulse.wake = lambda: _wake(observer)
    atexit.register(_end, observer, pulse)
    return pulse


def _end(observer: subprocess.Popen, pulse: SharedPulse) -> None:
    """At this process's orderly end: the last record is written, and no process is left behind."""
    pulse.ended("error", "it ended without saying why")
    observer.stdin.close()
    try:
        observer.wait(timeout=5)
    except subprocess.TimeoutExpired:
        observer.kill()
        observer.wait()


def _wake(observer: subprocess.Popen) -> None:
    try:
        os.write(observer.stdin.fileno(), b".")
    except BrokenPipeError:
        pass  # it was killed: then nobody looks

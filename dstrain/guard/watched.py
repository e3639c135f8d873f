"""Puts a rank under an observer's eyes, and under another one's where the first is killed."""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from dstrain.config.os_errors import in_words
from dstrain.guard import machine
from dstrain.guard.blackbox import Record, RecordFile, TakenOver, stack_path
from dstrain.guard.observer import STACK_SIGNAL, say
from dstrain.guard.pulse import SharedPulse

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT}
"""What is blocked where it is started stays blocked in the observer: it ends with its rank, and by nothing else. But it
stops on Ctrl-Z, as its rank does."""
BRIEF_S = 10.0
"""a second observer that is gone so soon would be followed by others alike"""
PAUSE_S = 1.0
"""who kills a whole job kills this rank within it: then no new observer is to tell another story"""


def watched(run_folder: Path, rank: int, world: int, attempt: str) -> SharedPulse:
    """Start this rank's observer; it ends with this process. The pulse that is returned is what it sees. Once only."""
    run_folder = run_folder.resolve()
    with in_words("keep a black box in", run_folder / "blackbox", "run.dir=..."):
        file = RecordFile(run_folder, rank)
        file.write(Record(rank=rank, world=world, host=socket.gethostname(), pid=os.getpid(),
                          boot_id=machine.boot_id(), attempt=attempt, started=time.time()))
        stacks = open(stack_path(run_folder, rank), "w")
    faulthandler.enable(file=stacks, all_threads=True)  # what crashes in native code leaves its stacks, too
    faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=True)
    pulse = SharedPulse()
    watch = Watch(run_folder, rank, file, pulse)
    pulse.wake = watch.wake
    atexit.register(watch.end)
    threading.Thread(target=watch.keep_up, daemon=True, name="keeps an observer").start()
    return pulse


class Watch:
    """The rank's side of it: its observer, one after the other; and its last word where there is none."""

    def __init__(self, run_folder: Path, rank: int, file: RecordFile, pulse: SharedPulse):
        self.run_folder, self.rank, self.file, self.pulse = run_folder, rank, file, pulse
        self._lock = threading.Lock()
        self._over = self._replaced = False
        self._observer = self._start()

    def keep_up(self) -> None:
        """In a thread that waits for the observer's end, which does not come while the rank lives unless by a kill."""
        while True:
            began, observer = time.monotonic(), self._observer
            observer.wait()
            lived_s = time.monotonic() - began
            time.sleep(PAUSE_S)
            with self._lock:
                if self._over:
                    return
                words, goes_on = self._another(lived_s)
            say(f"dstrain: rank {self.rank}: its observer (process {observer.pid}) was killed; {words}")
            if not goes_on:
                return

    def wake(self) -> None:
        """The rank has said why it ends."""
        with self._lock:
            try:
                os.write(self._observer.stdin.fileno(), b".")
            except BrokenPipeError:
                self._write_last_record()

    def end(self) -> None:
        """At this process's orderly end: the last record is written, and no process is left behind."""
        self.pulse.ended("error", "it ended without saying why")
        with self._lock:
            self._over = True
            observer = self._observer
        observer.stdin.close()
        try:
            observer.wait(timeout=5)
        except subprocess.TimeoutExpired:
            observer.kill()
            observer.wait()
        if observer.returncode:
            self._write_last_record()

    def _another(self, lived_s: float) -> tuple[str, bool]:
        if lived_s >= BRIEF_S or not self._replaced:
            self._replaced = True
            try:
                observer = self._start()
            except OSError as error:
                return f"no other could be started ({error.strerror}): from now on nobody watches this rank", False
            self._observer.stdin.close()
            self._observer = observer
            return "another one watches this rank from now on", True
        return "so was the one before: from now on nobody watches this rank, and the run goes on", False

    def _start(self) -> subprocess.Popen:
        what = {"run_folder": str(self.run_folder), "rank": self.rank, "record": self.file.number,
                "pulse": self.pulse.file}
        # -I -S: the standard library alone; nothing that the environment, this folder or site-packages would bring.
        start = f"import sys; sys.path.append({str(ROOT)!r}); from dstrain.guard.observer import main; main()"
        command = [sys.executable, "-I", "-S", "-c", start, json.dumps(what)]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            # Closes all other files of this process: sockets above all, whose end tells the others that it is gone.
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                    pass_fds=[self.file.number, self.pulse.file])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _write_last_record(self) -> None:
        """In the observer's place."""
        pulse, last = self.pulse, self.file.read()
        if last is None:
            return
        try:
            self.file.write(replace(last, beat=last.beat + 1, at=time.time(), step=pulse.step, phase=pulse.phase,
                                    detail=pulse.detail, phase_for_s=0.0, ending=pulse.ending, gone=None))
        except (OSError, TakenOver):
            pass  # a folder that is gone or another attempt's, a broken disk: that is why this rank ends

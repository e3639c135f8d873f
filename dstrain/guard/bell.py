"""Whether a run was asked to leave: by SIGTERM, by SIGUSR1, or because its time is nearly over.

A signal only rings the bell. The trainer looks at it with every step, all ranks agree on the same step, save and leave
with exit code 75; a second signal rings it again, and nothing more. Before the ranks have found each other there is
nothing to save and nobody to agree with, and the main thread may hang in a rendezvous that no Python code interrupts:
there a thread of its own ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from dstrain.config.errors import Left

LEFT = 75
"""exit code: left on request, the same command goes on (EX_TEMPFAIL of sysexits.h)"""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Bell:
    """Rings once; `reason` says why, for people."""

    def __init__(self):
        self.reason: str | None = None
        self._began = time.monotonic()
        self._max_minutes: float | None = None
        self._alone = False

    def listen(self) -> None:
        """From now on the signals ring; called in the main thread, before anything takes long."""
        self._alone = True
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # written to at once, whatever the main thread does
        threading.Thread(target=self._end_if_alone, args=(read,), daemon=True, name="bell").start()
        for number in SIGNALS:
            signal.signal(number, lambda number, _: self.ring(signal.Signals(number).name))

    def limit(self, max_minutes: float | None) -> None:
        """Ring before so many minutes are over, counted from when this bell was made."""
        self._max_minutes = max_minutes

    def joined(self) -> None:
        """The ranks have found each other: from now on they leave together."""
        self._alone = False

    def ring(self, reason: str) -> None:
        self.reason = self.reason or reason

    def rings(self, needs_s: float = 0.0) -> bool:
        """Whether to leave now, when what is to be done before takes about `needs_s` seconds."""
        if self._max_minutes is not None and time.monotonic() - self._began + needs_s >= 60 * self._max_minutes:
            self.ring(f"run.max_minutes={self._max_minutes:g}")
        return self.reason is not None

    def leave_if_rung(self, ranks) -> None:
        """In the start-up, between its parts: all ranks leave if one was asked to."""
        reason = next((reason for reason in ranks.gather(self.reason) if reason is not None), None)
        if reason is not None:
            raise Left(f"{reason} came before the first step: nothing was trained that could be saved; "
                       "the same command goes on")

    def _end_if_alone(self, read: int) -> None:
        while byte := os.read(read, 1):
            if self._alone and byte[0] in SIGNALS:
                print(f"dstrain: {signal.Signals(byte[0]).name} came before the ranks had found each other: nothing "
                      "was trained that could be saved; the same command goes on", file=sys.stderr, flush=True)
                os._exit(LEFT)

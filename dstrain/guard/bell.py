"""Whether a run was asked to leave: by SIGTERM, by SIGUSR1, by SIGHUP, or because its time is nearly over.

A signal only rings the bell. The trainer looks at it with every step, all ranks agree on the same step, save and leave
with exit code 75; a second signal rings it again, and nothing more. Before the first step there is nothing to save: a
rank that has met no other yet ends at once; after that the ranks leave the start-up together, but where that takes
long (a tokenizer is learned, a rank is missing in the rendezvous) each ends by itself.

The signals are blocked in the main thread and in all that it starts; a thread of the bell's own takes them. So no
system call of torch's or of the network's libraries is ever interrupted by one, none is lost or kills the process in
the interpreter's shutdown, and one that came while Python itself was starting is heard when a launcher had blocked it.
SIGHUP says that the terminal was closed or the connection to it dropped; who ignored it beforehand (nohup) did not
want to be told.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import Any, Callable

from dstrain.config.errors import Left

LEFT = 75
"""exit code: left on request, the same command goes on (EX_TEMPFAIL of sysexits.h)"""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
HANGS_UP = signal.SIGHUP
MEETING_S, START_UP_S = 2.0, 10.0
"""so long after the signal the ranks may take to meet, and then to leave their start-up together"""
STDERR = 2


class Bell:
    """Rings once; `reason` says why, for people."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.last_words: Callable[[str], None] = lambda words: None
        """told why, when this process ends at once"""
        self.told: Callable[[str], None] = lambda reason: None
        """told why, when it rings for the first time"""
        self._began = time.monotonic()
        self._max_minutes: float | None = None
        self._patience_s: float | None = None
        """how long after a signal the process may go on; None: until it leaves by itself"""

    def listen(self) -> None:
        """From now on the signals ring. Called in the main thread, before numpy or torch start threads of their own."""
        self._patience_s = 0.0
        signals = SIGNALS if signal.getsignal(HANGS_UP) == signal.SIG_IGN else (*SIGNALS, HANGS_UP)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        listener = threading.Thread(target=self._listen, args=(signals,), daemon=True, name="bell")
        for number in signals:  # where a thread that is older than this took it, and for a parent that had it ignored
            signal.signal(number, lambda number, _: signal.pthread_kill(listener.ident, number))
        os.register_at_fork(after_in_child=lambda: _as_by_default(signals))
        listener.start()

    def limit(self, max_minutes: float | None) -> None:
        """Ring before so many minutes are over, counted from when this bell was made."""
        self._max_minutes = max_minutes

    def meets(self) -> None:
        """From here on other ranks may know of this one; those that were asked before they came this far never come."""
        self._patience_s = MEETING_S

    def joined(self) -> None:
        """All ranks are there."""
        self._patience_s = START_UP_S

    def trains(self) -> None:
        """The first step begins: from now on the ranks leave together, and save before."""
        self._patience_s = None

    def ring(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            self.told(reason)

    def rings(self, needs_s: float = 0.0) -> bool:
        """Whether to leave now, when what is to be done before takes about `needs_s` seconds."""
        if self._max_minutes is not None and time.monotonic() - self._began + needs_s >= 60 * self._max_minutes:
            self.ring(f"run.max_minutes={self._max_minutes:g}")
        return self.reason is not None

    def leave_if_rung(self, ranks: Any) -> None:
        """In the start-up, between its parts: all ranks leave if one was asked to."""
        reason = next((reason for reason in ranks.gather(self.reason) if reason is not None), None)
        if reason is not None:
            raise Left(_nothing_lost(reason))

    def leave_start_up(self) -> None:
        """Another rank is gone: where this one, too, was asked to leave before its first step, that is why."""
        if self.reason is not None and self._patience_s is not None:
            raise Left(_nothing_lost(self.reason))

    def _listen(self, signals: tuple[int, ...]) -> None:
        while True:
            self.ring(signal.Signals(signal.sigwait(signals)).name)
            heard = time.monotonic()
            while (patience_s := self._patience_s) is not None:
                if time.monotonic() - heard >= patience_s:
                    self._end()
                time.sleep(0.05)

    def _end(self) -> None:
        """At once, whatever the main thread does: it may hang in a rendezvous that no Python code interrupts."""
        words = _nothing_lost(self.reason)
        self.last_words(words)
        if os.environ.get("RANK", "0") == "0" and select.select([], [STDERR], [], 1.0)[1]:
            with contextlib.suppress(OSError):  # nobody is there, as after a hang-up
                os.write(STDERR, f"dstrain: {words}\n".encode())
        os._exit(LEFT)


def _nothing_lost(reason: str) -> str:
    return (f"{reason} came before the first step: nothing was trained that could be saved; "
            "the same command goes on")


def _as_by_default(signals: tuple[int, ...]) -> None:
    """In a forked child: it is no rank, and whoever ends it by SIGTERM means it."""
    for number in signals:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

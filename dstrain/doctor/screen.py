"""What the doctor says while it works: on a terminal what runs now and since when, then a proof's lines as it ends."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from dstrain.doctor.examined import Examined, broke
from dstrain.doctor.table import labelled, lines_of, width_here
from dstrain.doctor.warnings.figure import Figure

LOOKS_EVERY_S = 1.0


class Screen:
    def __init__(self, out: TextIO | None = None):
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._broken: dict[str, str] = {}
        """by what broke it, the first proof that did"""
        self._began, self._stop, self._clock = time.monotonic(), threading.Event(), None

    def line(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)

    def begin(self, what: str) -> None:
        """`what` is being worked on; on a terminal with seconds that count."""
        if self._live:
            self._stop = threading.Event()
            self._clock = threading.Thread(target=self._count, args=(what, self._stop), daemon=True)
            self._clock.start()

    def end(self) -> None:
        """Of what was begun."""
        if self._clock is not None:
            self._stop.set()
            self._clock.join()
            self._clock = None
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def proof(self, examined: Examined) -> None:
        """What broke several of them is told once."""
        self.end()
        same = examined.finding is not None and broke(examined.finding) and self._broken.setdefault(
            examined.finding.figure, examined.name) != examined.name
        told = lines_of(examined, width_here())
        if same:
            told = told[:1] + labelled("found", f"broke as {self._broken[examined.finding.figure]} did", width_here())
        self.line("\n".join(told))

    def figures(self, figures: Sequence[Figure]) -> None:
        """All in a line each; those with advice say so."""
        self.line("\nfigures")
        for figure in figures:
            lines = labelled(f"{figure.name:<12}", figure.figure, width_here())
            lines += labelled(f"{'':<12}", f"look: {figure.advice}", width_here()) if figure.advice else []
            self.line("\n".join(lines))

    def summary(self, found: Sequence[Examined], not_proven: Sequence[str], not_run: int, advised: int) -> None:
        proven, failed = (sum(getattr(examined, verdict) for examined in found) for verdict in ("passed", "failed"))
        if not_proven:
            self.line("\nnot proven")
            for reason in not_proven:
                self.line("\n".join(labelled("-", reason, width_here(), label_width=1)))
        seconds = time.monotonic() - self._began
        tried = len(found) - proven - failed
        left_out = f", {not_run} not run" if not_run else ""
        self.line(f"\n{proven} proven, {tried} not proven{left_out}, {failed} FAILED in {seconds:.0f} s")
        if advised:
            self.line(f"{advised} figure(s) to look at")
        if failed:
            self.line(f"FAILED: {', '.join(examined.name for examined in found if examined.failed)}")

    def _count(self, what: str, stop: threading.Event) -> None:
        began = time.monotonic()
        while True:
            print(f"\r\x1b[K{'...':<11} {what:<21} {time.monotonic() - began:6.0f} s", end="", file=self._out,
                  flush=True)
            if stop.wait(LOOKS_EVERY_S):
                return

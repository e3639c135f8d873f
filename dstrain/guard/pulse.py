"""A rank's sign of life: which step it is in, what it is doing, how long that may take.

`Pulse` tells nobody: what a rank has that nobody watches. `SharedPulse` tells its observer (observer.py) through
shared memory, which can be read while the rank is stopped, holds the interpreter's lock or hangs in native code.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import time
from collections import deque
from typing import Callable, Iterator, NamedTuple

from dstrain.guard.blackbox import PHASES

RECENT_STEPS = 50
KNOWN_STEPS = 3
"""so many, after the first one, tell what a step takes; the first one compiles"""
PATIENCE_S = 8.0
"""beside twice the slowest recent step, and below the promised 10 s: finding out who it is takes some, too"""
WITHOUT_END_S = 600.0
"""named early, but ended late: what waits for a disk or the network may lawfully be slow"""
LONG_S = {"start": (300.0, 3600.0), "saving": (600.0, 3600.0), "leaving": (600.0, 3600.0)}
"""named and ended after so long without a sign, where a step is no yardstick"""
ENDING_S = (60.0, 300.0)
"""from the rank's last word to its end"""
UNKNOWN_S = (300.0, 1800.0)
"""the same as long as nothing of the kind was seen before: compilers may be at work"""


class Pulse:
    """Keeps count of steps and times; the trainer asks it how long a step takes."""

    def __init__(self) -> None:
        self.step = 0
        """optimizer steps done"""
        self.slowest_step_s = 0.0
        """of the recent ones, waiting for data included"""
        self.own_s = 0.0
        """of the last step: its time without what passed in collectives, where a rank waits for the others"""
        self.own_running_s = 0.0
        """the same without what it waited for a core, while other programs had them all"""
        self.coreless_s: Callable[[], float] = lambda: 0.0
        """how long this thread has waited for a core so far, where somebody asks"""
        self.phase, self.detail = "start", ""
        self.ending: dict | None = None
        self._signs = 0
        self._recent_s: deque[float] = deque(maxlen=RECENT_STEPS)
        self._known = False
        self._began: tuple[float, float, float] | None = None
        self._wait_began = (0.0, 0.0)
        self._waited_s = self._waited_coreless_s = 0.0
        self._waits = 0
        self._allowance_s = LONG_S["start"]

    def enter(self, phase: str, detail: str = "") -> None:
        """What is being done from now on: start, data, step, validation, saving or leaving; `detail` for people."""
        is_new = phase != self.phase
        if self._began is None and phase in ("data", "step"):
            self._began = time.perf_counter(), *self._own_clocks_s()
        self.phase, self.detail = phase, detail
        self._allowance_s = self._allowed(phase, is_new)
        self._signs += 1
        self._tell()

    def about(self, what: str) -> None:
        """A part of the phase that takes its own time, which no step tells: making a tokenizer, writing samples."""
        self._signs += 1
        self.takes_long(what)

    def takes_long(self, what: str) -> None:
        """The same, of something that other ranks may do at another time or not at all, such as compiling."""
        self.detail = what
        self._allowance_s = LONG_S.get(self.phase, UNKNOWN_S)
        self._tell()

    def stepped(self, step: int) -> None:
        """An optimizer step has ended."""
        self.step = step
        if self._began is not None:
            began, own_before_s, running_before_s = self._began
            own_s, running_s = self._own_clocks_s()
            self.own_s, self.own_running_s = own_s - own_before_s, running_s - running_before_s
            self._note(time.perf_counter() - began)
            self._began = None
        self.phase, self.detail = "step", "records"
        self._allowance_s = self._allowed("data", False)  # what is written down goes to a disk
        self._signs = 0
        self._tell()

    def ended(self, cause: str, words: str) -> None:
        """Why this rank ends; the first cause counts."""
        if self.ending is None:
            self.ending = {"cause": cause, "words": words, "step": self.step, "phase": self.phase,
                           "detail": self.detail[:200], "at": time.time()}
            self.enter("leaving")

    @contextlib.contextmanager
    def waiting(self, where: str) -> Iterator[None]:
        """Around a collective: what passes in it is the others' time, and who is in it is not who is missing."""
        self.wait(where)
        try:
            yield
        finally:
            self.waited()

    def wait(self, where: str) -> None:
        self._waits += 1
        if self._waits == 1:
            self._wait_began = time.perf_counter(), self.coreless_s()

    def waited(self) -> None:
        self._waits -= 1
        if self._waits == 0:
            began, coreless_before_s = self._wait_began
            self._waited_s += time.perf_counter() - began
            self._waited_coreless_s += self.coreless_s() - coreless_before_s

    def _allowed(self, phase: str, is_new: bool) -> tuple[float, float]:
        """After how many seconds without a further sign it is named, and ended."""
        if self.ending is not None:
            return ENDING_S
        if phase in LONG_S:
            return LONG_S[phase]
        if not self._known or (phase == "validation" and is_new):
            return UNKNOWN_S
        named_s = 2 * self.slowest_step_s + PATIENCE_S
        return (named_s, named_s) if phase == "step" else (named_s, max(named_s, WITHOUT_END_S))

    def _own_clocks_s(self) -> tuple[float, float]:
        """Two clocks that stand still in collectives; the second one while there is no core, too."""
        own_s = time.perf_counter() - self._waited_s
        return own_s, own_s - (self.coreless_s() - self._waited_coreless_s)

    def _note(self, took_s: float) -> None:
        self._recent_s.append(took_s)
        if not self._known and len(self._recent_s) > KNOWN_STEPS:
            self._recent_s.popleft()
            self._known = True
        self.slowest_step_s = max(self._recent_s)

    def _tell(self) -> None:
        pass


class Sign(NamedTuple):
    """What the observer reads."""

    signs_ever: int
    """changes with every sign"""
    step: int
    signs: int
    """since the last step"""
    phase: str
    named_after_s: float
    ended_after_s: float
    slowest_step_s: float
    detail: str
    waits_in: str
    ending: dict | None


_FORM = struct.Struct("<QQQBHddd256s")
_VERSION = struct.Struct("<Q")
_WAITS_AT, _WAITS = 512, 32
_ENDING_AT, _SIZE = 576, 4096


class SharedPulse(Pulse):
    """Tells the process that has `file`, too."""

    def __init__(self) -> None:
        super().__init__()
        self.wake: Callable[[], object] = lambda: None
        """the observer is to look at once"""
        self.file = os.memfd_create("dstrain-pulse")
        os.ftruncate(self.file, _SIZE)
        self._memory = mmap.mmap(self.file, _SIZE)
        self._version = self._signs_ever = self._ending_bytes = 0
        self._tell()

    def ended(self, cause: str, words: str) -> None:
        first = self.ending is None
        super().ended(cause, words)
        if first:
            text = _fitting(self.ending)
            self._memory[_ENDING_AT:_ENDING_AT + len(text)] = text
            self._ending_bytes = len(text)
            self._tell()
            self.wake()

    def wait(self, where: str) -> None:
        super().wait(where)
        if self._waits == 1:
            self._memory[_WAITS_AT:_WAITS_AT + _WAITS] = where.encode()[:_WAITS].ljust(_WAITS, b"\0")

    def waited(self) -> None:
        super().waited()
        if self._waits == 0:
            self._memory[_WAITS_AT] = 0

    def _tell(self) -> None:
        """An odd version says that the rest is being written: readers come again."""
        self._signs_ever += 1
        self._version += 2
        memory = self._memory
        _VERSION.pack_into(memory, 0, self._version - 1)
        _FORM.pack_into(memory, 8, self._signs_ever, self.step, self._signs, PHASES.index(self.phase),
                        self._ending_bytes, *self._allowance_s, self.slowest_step_s,
                        self.detail.encode("utf-8", "replace")[:256])
        _VERSION.pack_into(memory, 0, self._version)


def read_sign(memory: mmap.mmap) -> Sign | None:
    """None where it was being written each time: nothing new then."""
    for _ in range(20):
        version, = _VERSION.unpack_from(memory, 0)
        signs_ever, step, signs, phase, ending_bytes, *seconds, detail = _FORM.unpack_from(memory, 8)
        waits_in = memory[_WAITS_AT:_WAITS_AT + _WAITS]
        ending = memory[_ENDING_AT:_ENDING_AT + ending_bytes]
        if version % 2 == 0 and _VERSION.unpack_from(memory, 0)[0] == version:
            return Sign(signs_ever, step, signs, PHASES[phase], *seconds, _text(detail), _text(waits_in),
                        json.loads(ending) if ending else None)
    return None


def _fitting(ending: dict) -> bytes:
    """As JSON, in the room that it has; what is for people is cut short."""
    text = b""
    for words, detail in ((600, 200), (100, 0)):
        short = {**ending, "words": ending["words"][:words], "detail": ending["detail"][:detail]}
        text = json.dumps(short, ensure_ascii=False).encode("utf-8", "replace")
        if len(text) <= _SIZE - _ENDING_AT:
            break
    return text


def _text(padded: bytes) -> str:
    return padded.split(b"\0", 1)[0].decode("utf-8", "ignore")

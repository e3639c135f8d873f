"""One rank of a training that gets stuck by itself at a chosen sign of life: python stuck_rank.py FAULT PHASE TIMES ...

FAULT: `stop` (SIGSTOP to itself), `native` (sleeps in native code and holds the interpreter's lock), `sleep=S` (Python,
for S seconds), `none`. It happens when the rank enters PHASE for the TIMES-th time. What follows is for `dstrain`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from dstrain.__main__ import main
from dstrain.guard.pulse import SharedPulse


def install(fault: str, phase: str, times: int) -> None:
    inner, count = SharedPulse.enter, [0]

    def enter(self: SharedPulse, entered: str, detail: str = "") -> None:
        inner(self, entered, detail)
        count[0] += entered == phase
        if entered == phase and count[0] == times:
            print(f"stuck at {time.time():.3f}", file=sys.stderr, flush=True)
            happen(fault)

    SharedPulse.enter = enter


def happen(fault: str) -> None:
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "native":
        ctypes.PyDLL(None).sleep(3600)
    elif fault.startswith("sleep="):
        time.sleep(float(fault.removeprefix("sleep=")))


if __name__ == "__main__":
    fault, phase, times, *arguments = sys.argv[1:]
    if fault != "none":
        install(fault, phase, int(times))
    sys.exit(main(arguments))

"""A rank without torch: gives the signs of life of a training, in lockstep with the others through files.

    python toy_rank.py RUN_FOLDER RANK WORLD STEPS FAULT@PHASE:STEP ...

FAULT is one of sleep=SECONDS, rests (for 5 s of its own, so that a stop in between makes it longer), native (sleeps in
native code, holding the interpreter's lock), waits (in a collective, for ever), kill (SIGKILL to itself). It ends with
a word and code 0, if it ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dstrain.guard.watched import watched  # noqa: E402  (after the path is set)

PHASES = ("data", "step", "validation", "saving")
STEP_S = 0.05


class Toy:
    def __init__(self, folder: Path, rank: int, world: int, faults: list[str]):
        self.folder, self.rank, self.world, self.faults = folder, rank, world, faults
        self.pulse = watched(folder, rank, world, "first")
        self.meetings = 0

    def train(self, steps: int) -> None:
        for step in range(1, steps + 1):
            for phase in PHASES:
                if phase in ("validation", "saving") and step % 10:
                    continue
                self.pulse.enter(phase)
                self.fail(f"{phase}:{step}")
                if phase != "data":
                    self.meet()
                if phase == "step":
                    time.sleep(STEP_S)
                    self.pulse.stepped(step)
        self.pulse.ended("finished", "the run is at its end")

    def fail(self, here: str) -> None:
        for fault in (fault for fault, _, where in (text.partition("@") for text in self.faults) if where == here):
            print(f"{fault} at {time.time():.3f}", file=sys.stderr, flush=True)
            if fault.startswith("sleep="):
                time.sleep(float(fault.removeprefix("sleep=")))
            elif fault == "rests":
                (self.folder / "rests").touch()
                for _ in range(100):
                    time.sleep(0.05)
            elif fault == "native":
                ctypes.PyDLL(None).sleep(3600)
            elif fault == "waits":
                with self.pulse.waiting("all_reduce"):
                    time.sleep(3600)
            elif fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)

    def meet(self) -> None:
        """A collective: over when all are there."""
        self.meetings += 1
        (self.folder / f"met_{self.rank}").write_text(str(self.meetings))
        with self.pulse.waiting("gather"):
            while min(map(self.met, range(self.world))) < self.meetings:
                time.sleep(0.002)

    def met(self, rank: int) -> int:
        try:
            return int((self.folder / f"met_{rank}").read_text() or 0)
        except FileNotFoundError:
            return 0


if __name__ == "__main__":
    folder, rank, world, steps, *faults = sys.argv[1:]
    Toy(Path(folder), int(rank), int(world), faults).train(int(steps))

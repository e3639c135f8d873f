"""Stops, hangs and slows a rank of real trainings, and prints who was named, how soon, and what was left behind.

    python tests/faults/stuck.py                 # all cases, about 20 minutes on two cores
    python tests/faults/stuck.py --moments 2     # fewer random moments
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from small_run import lay_out  # noqa: E402  (after the path is set)
from stuck_runs import Ranks, faults_of  # noqa: E402

ENDLESS = ["run.steps=1000000", "schedule.name=WarmupLR", "log.every=10", "log.samples=0"]
VALIDATES = ["valid.every=10", "checkpoint.every=7"]
LONG_DATA = ["data.prefetch_steps=1"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moments", type=int, default=12, metavar="N", help="random moments of SIGSTOP (default: 12)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    place = lay_out(Path(tempfile.mkdtemp(prefix="dstrain-stuck-")))
    failed = 0
    for number in range(arguments.moments):
        stage, world, rank = 1 + number % 3, 2 + number % 2, number % 2
        failed += stopped_at_random(place, f"random{number}", world, rank, stage, 6 * chance.random())
    for phase, times in (("data", 20), ("step", 25), ("validation", 4), ("saving", 2)):
        failed += stuck_in(place, f"stop-{phase}", "stop", phase, times, "stopped")
    failed += stopped_in_start_up(place)
    for stage in (1, 2, 3):
        failed += stuck_in(place, f"native-{stage}", "native", "step", 41, "stuck", f"engine.config=zero{stage}_fp32")
    return 1 if failed else 0


def stopped_at_random(place: Path, name: str, world: int, rank: int, stage: int, after_s: float) -> bool:
    ranks = Ranks(place, name, world, {}, *ENDLESS, *VALIDATES, f"engine.config=zero{stage}_fp32")
    ranks.until_step(8)
    time.sleep(after_s)
    return row(f"SIGSTOP {after_s:.2f} s later, {world} ranks, ZeRO-{stage}", ranks.outcome(ranks.stop(rank)), rank,
               "stopped")


def stopped_in_start_up(place: Path) -> bool:
    """As soon as there is an observer."""
    ranks = Ranks(place, "start", 2, {}, *ENDLESS)
    ranks.until_step(0)
    return row("SIGSTOP in the start-up", ranks.outcome(ranks.stop(1)), 1, "stopped")


def stuck_in(place: Path, name: str, fault: str, phase: str, times: int, kind: str, *overrides: str) -> bool:
    ranks = Ranks(place, name, 2, {1: (fault, phase, times)}, *ENDLESS, *VALIDATES, *overrides)
    return row(f"{fault} in phase {phase} {' '.join(overrides)}", ranks.outcome(), 1, kind)


def row(what: str, outcome, rank: int, kind: str) -> bool:
    wrong = faults_of(outcome, rank, kind)
    phase = f"{outcome.alarm.phase}, {outcome.alarm.detail}" if outcome.alarm else "?"
    print(f"{what:<52} {phase:<28.28} named after {outcome.named_s or -1:5.1f} s (bound {outcome.bound_s:5.1f} s)  "
          f"all ended after {outcome.ended_s:5.1f} s  codes {outcome.codes}  left {len(outcome.left)}  "
          f"{'ok' if not wrong else 'WRONG: ' + '; '.join(wrong)}", flush=True)
    if wrong:
        print("\n".join(line for _, line in outcome.said[-30:]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

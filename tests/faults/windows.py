"""Who is called slow: nobody in clean windows, beside other programs too, and a rank that takes twice its time.

    python tests/faults/windows.py                  # 1,000 clean windows without, 1,000 with competing load, 30 slowed
    python tests/faults/windows.py --windows 100 --slowed 2

A window is five steps of two real ranks; ZeRO-1, 2 and 3 in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from pace_jobs import SLOW_RANK, paces  # noqa: E402  (after the path is set)
from small_run import lay_out  # noqa: E402

from dstrain.config.load import load_recipe  # noqa: E402
from dstrain.config.schema import Recipe  # noqa: E402
from dstrain.runtime.pace import WINDOW_STEPS  # noqa: E402
from dstrain.runtime.rank_group import RankGroup  # noqa: E402

STAGES = (1, 2, 3)
NAMED_WITHIN = 20
"""steps"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--windows", type=int, default=1000, metavar="N", help="clean ones of each kind")
    parser.add_argument("--slowed", type=int, default=10, metavar="N", help="slowed runs a stage (default: 10)")
    arguments = parser.parse_args()
    place = lay_out(Path(tempfile.mkdtemp(prefix="dstrain-pace-")))
    good = True
    with RankGroup(2) as group:
        for what, programs in (("clean windows", 0), ("clean windows beside two busy programs", 2)):
            with competing(programs):
                alarms = sum(len(false_alarms(group, place, stage, arguments.windows // len(STAGES)))
                             for stage in STAGES)
            print(f"{what}: {alarms} false alarms in {arguments.windows}", flush=True)
            good &= alarms <= arguments.windows / 100
        chance = random.Random(1)
        for stage in STAGES:
            after = [named_after(group, place, stage, 40 + chance.randrange(WINDOW_STEPS))
                     for _ in range(arguments.slowed)]
            named = [steps for steps in after if steps is not None and steps <= NAMED_WITHIN]
            print(f"a rank twice as slow at ZeRO-{stage}: named within {NAMED_WITHIN} steps in {len(named)} of "
                  f"{len(after)} runs, after {sorted(named)} steps", flush=True)
            good &= len(named) >= 0.9 * len(after)
    return 0 if good else 1


def false_alarms(group: RankGroup, place: Path, stage: int, windows: int) -> list:
    recipe = _recipe(place, WINDOW_STEPS * windows)
    return group.run(paces, recipe, f"zero{stage}_fp32", timeout_s=7200)[0][1]


def named_after(group: RankGroup, place: Path, stage: int, slow_from: int) -> int | None:
    """How many slow steps it took; None: another was named first, or none."""
    (_, news), _ = group.run(paces, _recipe(place, slow_from + 30), f"zero{stage}_fp32", slow_from, timeout_s=600)
    step, words = next(iter(news), (0, ""))
    return step - slow_from + 1 if words.startswith(f"rank {SLOW_RANK} ") and step >= slow_from else None


@contextlib.contextmanager
def competing(programs: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in busy:
            program.kill()
            program.wait()


def _recipe(place: Path, steps: int) -> Recipe:
    """A run folder of its own each time; nothing but steps."""
    runs = tempfile.mkdtemp(dir=place)
    never = 10**6
    return load_recipe(str(place / "small.yaml"), [
        f"run.steps={steps}", f"run.dir={runs}", f"data.folder={place}", f"valid.every={never}",
        f"checkpoint.every={never}", "log.every=50", "log.norms_every=0", "log.samples=0"])


if __name__ == "__main__":
    sys.exit(main())

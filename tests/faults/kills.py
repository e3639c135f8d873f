"""Kill real trainings at random moments, again and again until they are finished: they must be the run never killed.

    python tests/faults/kills.py                     # 200 kills, about 20 minutes on two cores
    python tests/faults/kills.py --kills 20 --seed 7

ZeRO 1-3, accumulation 1 and 4, SIGKILL for all ranks or for one of two, dropout on, uneven rows, saves beside the
training. When one rank is killed, the other must end by itself; only where it still waits for the first in the
rendezvous does the harness do as every launcher does, and sends it SIGTERM. Compared with the run that was never
killed: every line of metrics and ledger without its wall-clock fields, and every byte of weights, moments and state in
every checkpoint. Ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import harness

STAGES, MICRO_ROWS, WHO = (1, 2, 3), (4, 1), ("all", "one")
MOST_ATTEMPTS = 60
RENDEZVOUS_S = 15.0
"""a rank that has not ended so long after the other's death waits for it in the rendezvous"""


@dataclass
class Tally:
    """Of one case: what was done to it and what became of it."""

    kills: int = 0
    chains: int = 0
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    landed: Counter = field(default_factory=Counter)
    slowest_other_s: float = 0.0
    """from the death of one rank to the end of the other"""
    never_met: int = 0
    """killed before the ranks had found each other"""


def case_name(stage: int, micro_rows: int, who: str) -> str:
    return f"ZeRO-{stage}, accumulation {4 // micro_rows}, {who} killed"


def run_kills(kills: int, seed: int, say=print, cases=None) -> dict[str, Tally]:
    """Cases take turns, a chain each, until there were so many kills."""
    chance, place = random.Random(seed), harness.lay_out(Path(tempfile.mkdtemp(prefix="dstrain-kills-")))
    tallies: dict[str, Tally] = {}
    straight: dict[tuple[int, int], tuple[float, float]] = {}
    try:
        for case in itertools.cycle(cases or list(itertools.product(STAGES, MICRO_ROWS, WHO))):
            stage, micro_rows, who = case
            settings = (f"engine.config=zero{stage}_fp32", f"batch.micro_rows={micro_rows}")
            unbroken = f"straight{stage}{micro_rows}"
            if (stage, micro_rows) not in straight:
                straight[stage, micro_rows] = _unbroken(place, unbroken, settings)
            tally = tallies.setdefault(case_name(*case), Tally())
            name = f"{case_name(*case)} {tally.chains}".replace(" ", "_").replace(",", "")
            _chain(place, name, settings, who, straight[stage, micro_rows], chance, tally)
            found, compared = harness.differences(place, unbroken, name)
            tally.differences += found
            tally.compared += compared
            done = sum(tally.kills for tally in tallies.values())
            say(f"{done:>4} of {kills} kills; {case_name(*case)}: chain {tally.chains}, {tally.kills} kills, "
                f"{compared} things compared, {len(found)} differ" + (f": {found[0]}" if found else ""))
            if found:
                raise AssertionError(f"{place / name} differs from {place / unbroken}: {found[:5]}")
            shutil.rmtree(place / name)
            if done >= kills and len(tallies) == len(cases or ()) or done >= kills and not cases:
                return tallies
    finally:
        if not sys.exc_info()[0]:
            shutil.rmtree(place)
    raise AssertionError("unreachable")


def _unbroken(place: Path, name: str, settings: tuple[str, ...]) -> tuple[float, float]:
    """The run that is never killed, and how long its start-up and its training take."""
    harness.start(place, f"run.dir={name}-first", *settings).wait()  # the server process starts with it
    shutil.rmtree(place / f"{name}-first")
    job = harness.start(place, f"run.dir={name}", *settings)
    job.trains_within()
    trains_s = time.monotonic() - job.began
    assert job.wait() == [0, 0], job.words()
    return trains_s, time.monotonic() - job.began - trains_s


def _chain(place: Path, name: str, settings: tuple[str, ...], who: str, whole_s: tuple[float, float],
           chance: random.Random, tally: Tally) -> None:
    """Killed at a random moment and started again, until it is finished."""
    tally.chains += 1
    for _ in range(MOST_ATTEMPTS):
        job = harness.start(place, f"run.dir={name}", *settings)
        if _ended_before_its_moment(job, whole_s, chance):
            assert job.wait() == [0, 0], job.words()
            return
        victims = [0, 1] if who == "all" else [chance.randrange(2)]
        job.send(signal.SIGKILL, victims)
        began = time.monotonic()
        if who == "one" and not job.ended_within(RENDEZVOUS_S) and "run  " not in job.words():
            job.send(signal.SIGTERM, [1 - victims[0]])
            tally.never_met += 1
            began = time.monotonic()
        codes = job.wait()
        if codes == [0, 0]:
            return
        tally.kills += 1
        tally.landed[harness.where(place, name, victims[0])] += 1
        if who == "one":
            tally.slowest_other_s = max(tally.slowest_other_s, time.monotonic() - began)
            other = codes[1 - victims[0]]
            assert codes[victims[0]] != -signal.SIGKILL or other != -signal.SIGKILL, job.words()
            assert other != 2, f"the other rank ended with {other}:\n{job.words()}"
    raise AssertionError(f"{name} was not finished after {MOST_ATTEMPTS} attempts")


def _ended_before_its_moment(job: harness.Job, whole_s: tuple[float, float], chance: random.Random) -> bool:
    """Wait for a random moment: one in four of the whole life, the others after the start-up, half of it."""
    start_s, train_s = whole_s
    if chance.random() < 0.25:
        return job.ended_within(chance.uniform(0.0, start_s + train_s))
    return not job.trains_within() or job.ended_within(chance.uniform(0.0, train_s))


def table(tallies: dict[str, Tally]) -> str:
    rows = [f"| {'case':<34} | kills | finished | compared | differ | other rank ended within | killed in |",
            "|---|---|---|---|---|---|---|"]
    for name, tally in sorted(tallies.items()):
        landed = ", ".join(f"{phase} {count}" for phase, count in tally.landed.most_common())
        other = f"{tally.slowest_other_s:.1f} s ({tally.never_met} never met)" if "one" in name else "-"
        rows.append(f"| {name:<34} | {tally.kills} | {tally.chains} | {tally.compared:,} | {len(tally.differences)} | "
                    f"{other} | {landed} |")
    total = Counter()
    for tally in tallies.values():
        total += tally.landed
    rows.append(f"{sum(t.kills for t in tallies.values())} kills, {sum(t.chains for t in tallies.values())} runs "
                f"finished, {sum(len(t.differences) for t in tallies.values())} differences; killed in: "
                + ", ".join(f"{phase} {count}" for phase, count in total.most_common()))
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    tallies = run_kills(arguments.kills, arguments.seed, lambda line: print(line, flush=True))
    print(table(tallies))
    print(f"{time.monotonic() - began:.0f} s")
    return int(any(tally.differences for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())

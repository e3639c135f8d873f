"""Ask real trainings to leave, at random moments, again and again until they are finished: nothing may be lost.

    python tests/faults/signals.py                      # 100 requests
    python tests/faults/signals.py --requests 20 --seed 7

SIGTERM and SIGUSR1, to all ranks or to one of two; once, twice or five times within a second, and both mixed. Every
rank must end with 75 (or all with 0: the run was finished already), none may hang, the step that the run says it left
at must be the last one in metrics and ledger, and the next call must go on from there. When it is finished it must be
the run that was never asked: records without their wall-clock fields (validations included), and every byte of the
last checkpoint. Where one rank alone is asked before the ranks have met, the harness does as launchers do: a rank that
ended has the others asked, too. Ends with 1 if anything is otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import harness
from phases import phase_of

from dstrain.guard.bell import LEFT, SIGNALS
from dstrain.train.run_folder import RunFolder, read_lines

STAGES, MICRO_ROWS, WHO = (1, 2, 3), (4, 1), ("all", "one")
KINDS = {"SIGTERM": (signal.SIGTERM,), "SIGUSR1": (signal.SIGUSR1,), "SIGTERM twice": (signal.SIGTERM,) * 2,
         "SIGUSR1 5 times": (signal.SIGUSR1,) * 5,
         "both mixed": (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM)}
HANGS_AFTER_S = 90.0
LAUNCHERS_LOOK_S = 1.0
MOST_ATTEMPTS = 60
# Seldom met by chance in a run of seconds, so waited for: one request in three.
AIMED_AT = ("validation", "saving")


@dataclass
class Tally:
    """Of one case: what was asked of it and what became of it."""

    requests: int = 0
    finished: int = 0
    compared: int = 0
    faults: list[str] = field(default_factory=list)
    landed: Counter = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    """from the first signal to the end of the last rank"""


def run_requests(requests: int, seed: int, cases: list[tuple], say=print) -> dict[str, Tally]:
    """Cases take turns, a chain each, until there were so many requests."""
    chance, place = random.Random(seed), harness.lay_out(Path(tempfile.mkdtemp(prefix="dstrain-signals-")))
    tallies: dict[str, Tally] = {}
    straight: dict[tuple, tuple[float, float]] = {}
    # As launch/local.sh starts ranks: what comes while Python itself starts is kept for them. The server process, which
    # all ranks are forked from, takes this over.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        harness.start(place, "run.dir=first").wait()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for case in itertools.cycle(cases):
        stage, micro_rows, who = case
        settings = (f"engine.config=zero{stage}_fp32", f"batch.micro_rows={micro_rows}")
        unbroken, called = f"straight{stage}{micro_rows}", f"ZeRO-{stage}, accumulation {4 // micro_rows}, {who} asked"
        if (stage, micro_rows) not in straight:
            straight[stage, micro_rows] = _unbroken(place, unbroken, settings)
        tally = tallies.setdefault(called, Tally())
        name = f"asked{stage}{micro_rows}{who}{tally.finished}"
        _chain(place, name, settings, who, straight[stage, micro_rows], chance, tally)
        found, compared = same_end(place, unbroken, name)
        tally.finished, tally.compared = tally.finished + 1, tally.compared + compared
        tally.faults += found
        done = sum(tally.requests for tally in tallies.values())
        say(f"{done:>4} of {requests} requests; {called}: {tally.requests} requests, {compared} things compared, "
            f"{len(tally.faults)} faults" + (f": {tally.faults[-1]}" if tally.faults else ""))
        if done >= requests and len(tallies) >= min(2, len(cases)):
            if not any(tally.faults for tally in tallies.values()):
                shutil.rmtree(place)
            else:
                say(f"kept for a look: {place}")
            return tallies
    raise AssertionError("unreachable")


def same_end(place: Path, straight: str, other: str) -> tuple[list[str], int]:
    """(what differs, how much was compared); checkpoints that were saved on leaving come in addition."""
    a, b = RunFolder(place / straight / "run"), RunFolder(place / other / "run")
    found, compared = harness.differences(place, straight, other)
    for pointer in ("latest", "best"):
        compared += 1
        if (a.checkpoints / pointer).read_bytes() != (b.checkpoints / pointer).read_bytes():
            found.append(f"checkpoints/{pointer}")
    return found, compared


def _unbroken(place: Path, name: str, settings: tuple[str, ...]) -> tuple[float, float]:
    """The run that is never asked, and how long its start-up and its training take."""
    job = harness.start(place, f"run.dir={name}", *settings)
    job.trains_within()
    start_s = time.monotonic() - job.began
    assert job.wait() == [0, 0], job.words()
    return start_s, time.monotonic() - job.began - start_s


def _chain(place: Path, name: str, settings: tuple[str, ...], who: str, whole_s: tuple[float, float],
           chance: random.Random, tally: Tally) -> None:
    """Asked at a random moment and started again, until it is finished."""
    left_at = 0
    for _ in range(MOST_ATTEMPTS):
        job = harness.start(place, f"run.dir={name}", *settings)
        asked = [0, 1] if who == "all" else [chance.randrange(2)]
        came = _moment_comes(job, whole_s, asked[0], chance)
        phase, kind = (phase_of(job.processes[asked[0]].pid) if came else ""), chance.choice(list(KINDS))
        began = time.monotonic()
        if came:
            _ask(job, asked, KINDS[kind], chance)
        codes = _ended(job, began)
        words = job.words()
        if left_at and f"from step {left_at} on" not in words and "run  " in words:
            tally.faults.append(f"{name}: left at step {left_at}, but went on elsewhere: {words}")
        if came:
            tally.requests += 1
            tally.landed[phase] += 1
            tally.took_s.append(time.monotonic() - began)
        if set(codes) == {0}:
            return
        if set(codes) != {LEFT} or "Traceback" in words:
            tally.faults.append(f"{name}: {kind} to {who} in {phase}: exit codes {codes}: {words}")
        left_at = _checked_step(RunFolder(place / name / "run"), words, left_at, tally, name)
    raise AssertionError(f"{name} was not finished after {MOST_ATTEMPTS} attempts")


def _checked_step(folder: RunFolder, words: str, before: int, tally: Tally, name: str) -> int:
    """The step at which the run says it left, which must be the last one that it trained."""
    said = re.search(r"left at step (\d+) of", words)
    if said is None:
        return before  # before the first step of this attempt: nothing has changed
    step = int(said[1])
    for path in (folder.metrics, folder.ledger):
        last = max(line["step"] for line in read_lines(path))
        if last != step:
            tally.faults.append(f"{name}: said that it left at step {step}, but {path.name} goes to {last}")
    return step


def _moment_comes(job: harness.Job, whole_s: tuple[float, float], rank: int, chance: random.Random) -> bool:
    """Wait for it: anywhere in the start-up or the training, or inside a short phase. False: it was too late."""
    start_s, train_s = whole_s
    where = chance.random()
    if where < 0.25:
        return not job.ended_within(chance.uniform(0.0, start_s))
    if not job.trains_within():
        return False
    if where < 0.67:
        return not job.ended_within(chance.uniform(0.0, train_s))
    aim, skip, pid = chance.choice(AIMED_AT), chance.randrange(3), job.processes[rank].pid
    inside, deadline = False, time.monotonic() + HANGS_AFTER_S
    while job.processes[rank].is_alive() and time.monotonic() < deadline:
        if phase_of(pid) != aim:
            inside = False
        elif not inside:
            inside, skip = True, skip - 1
            if skip < 0:
                return True
        time.sleep(0.001)
    return False


def _ask(job: harness.Job, ranks: list[int], numbers: tuple[int, ...], chance: random.Random) -> None:
    """One signal at once, or several within a second, the ranks in any order."""
    for n, number in enumerate(numbers):
        if n:
            time.sleep(chance.uniform(0.0, 0.9 / len(numbers)))
        for rank in chance.sample(ranks, len(ranks)):
            job.send(number, [rank])


def _ended(job: harness.Job, began: float) -> list[int]:
    """Exit codes. As every launcher does it, ranks that are left when one has ended are asked to end."""
    while any(process.is_alive() for process in job.processes):
        ended = [process for process in job.processes if not process.is_alive()]
        if ended and not job.ended_within(LAUNCHERS_LOOK_S):
            job.send(signal.SIGTERM)
        if time.monotonic() - began > HANGS_AFTER_S:
            break
        time.sleep(0.005)
    return job.wait(1.0)


def table(tallies: dict[str, Tally]) -> str:
    rows = ["| case | requests | finished | compared | faults | signal to end: median, longest | came in |",
            "|---|---|---|---|---|---|---|"]
    for name, tally in sorted(tallies.items()):
        rows.append(f"| {name} | {tally.requests} | {tally.finished} | {tally.compared:,} | {len(tally.faults)} | "
                    f"{_times(tally.took_s)} | {_counts(tally.landed)} |")
    whole = Tally()
    for tally in tallies.values():
        whole.requests, whole.finished = whole.requests + tally.requests, whole.finished + tally.finished
        whole.faults, whole.took_s = whole.faults + tally.faults, whole.took_s + tally.took_s
        whole.landed += tally.landed
    rows.append(f"{whole.requests} requests, {whole.finished} runs finished, {len(whole.faults)} faults; signal to end "
                f"{_times(whole.took_s)}; came in: {_counts(whole.landed)}")
    return "\n".join(rows)


def _times(took_s: list[float]) -> str:
    return f"{statistics.median(took_s):.2f} s, {max(took_s):.2f} s" if took_s else "-"


def _counts(landed: Counter) -> str:
    return ", ".join(f"{phase} {count}" for phase, count in landed.most_common())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="two cases only")
    arguments = parser.parse_args()
    began = time.monotonic()
    cases = [(stage, *rest) for rest in itertools.product(MICRO_ROWS, WHO) for stage in STAGES]
    cases = [(2, 4, "all"), (3, 1, "one")] if arguments.short else cases
    tallies = run_requests(arguments.requests, arguments.seed, cases, lambda line: print(line, flush=True))
    print(table(tallies))
    print(f"{time.monotonic() - began:.0f} s")
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())

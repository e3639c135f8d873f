"""`dstrain doctor --self-test`: all proofs on what is healthy, then each planted fault before the proof that is there
for it. A fault that passes is a failure, and so is one that only makes the proof break down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from dstrain.doctor.case import Case
from dstrain.doctor.examine import examine
from dstrain.doctor.examined import Examined, broke
from dstrain.doctor.faults import in_models, in_training
from dstrain.doctor.faults.fault import Fault
from dstrain.doctor.finding import NotProven
from dstrain.doctor.registry import PROOFS
from dstrain.doctor.screen import Screen
from dstrain.doctor.table import labelled, lines_of, width_here

FAULTS: tuple[Fault, ...] = (*in_models.FAULTS, *in_training.FAULTS)


class Attempt(NamedTuple):
    fault: Fault
    verdict: str
    """"caught", "PASSED", "CRASHED", or "not tried" where the recipe has nothing that could have the fault"""
    figure: str
    seconds: float

    @property
    def missed(self) -> bool:
        return self.verdict in ("PASSED", "CRASHED")


def self_test(case: Case, screen: Screen, faults: Sequence[Fault] = FAULTS,
              names: Sequence[str] = tuple(PROOFS)) -> int:
    """1 when a proof fails on what is healthy, or a fault is not caught."""
    began = time.monotonic()
    screen.line(f"healthy: {len(names)} proofs")
    healthy = examine(case, list(names), lambda examined: _say_healthy(examined, screen), screen.begin)
    screen.line(f"\nplanted: {len(faults)} faults")
    attempts = [_said(attempt(fault, case, screen), screen) for fault in faults]
    screen.line(f"\nin {time.monotonic() - began:.0f} s:")
    return judged(healthy, attempts, screen)


def judged(healthy: Sequence[Examined], attempts: list[Attempt], screen: Screen) -> int:
    ill = [examined.name for examined in healthy if examined.failed]
    missed = [attempt.fault.name for attempt in attempts if attempt.missed]
    tried = [attempt for attempt in attempts if attempt.verdict != "not tried"]
    screen.line(f"{sum(e.passed for e in healthy)} of {len(healthy)} proofs hold on what is healthy, "
                f"{len(tried) - len(missed)} of {len(tried)} faults are caught"
                + (f"; {len(attempts) - len(tried)} are none that this recipe could have" if tried != attempts else ""))
    for what, names in (("FAILED on what is healthy", ill), ("not caught", missed)):
        if names:
            screen.line(f"{what}: {', '.join(names)}")
    return int(bool(ill or missed))


def attempt(fault: Fault, case: Case, screen: Screen) -> Attempt:
    """The fault before its proof. Whatever is raised, the next fault is tried as well."""
    screen.begin(fault.name)
    began = time.perf_counter()
    try:
        finding = fault.attempt(case)
        verdict = "PASSED" if finding.passed else "CRASHED" if broke(finding) else "caught"
        figure = finding.figure
    except NotProven as reason:
        verdict, figure = "not tried", str(reason)
    except Exception as error:  # a proof that breaks has shown nothing: a user would not know what is wrong
        verdict, figure = "CRASHED", f"{type(error).__name__}: {error}"
    screen.end()
    return Attempt(fault, verdict, figure, time.perf_counter() - began)


def _say_healthy(examined: Examined, screen: Screen) -> None:
    screen.end()
    lines = lines_of(examined, width_here())
    screen.line("\n".join(lines if examined.failed else lines[:1]))


def _said(attempt: Attempt, screen: Screen) -> Attempt:
    fault, width = attempt.fault, width_here()
    screen.line("\n".join([f"{attempt.verdict:<11} {fault.name:<36} by {fault.proof:<13} {attempt.seconds:6.1f} s",
                           *labelled("looked", fault.looked, width), *labelled("figure", attempt.figure, width)]))
    return attempt

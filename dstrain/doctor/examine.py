"""Runs the proofs one after the other, says what each found, and writes the certificate."""

from __future__ import annotations

import sys
import time
from importlib import metadata
from typing import Callable, NamedTuple

from dstrain import __version__
from dstrain.config.errors import UserError
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding
from dstrain.doctor.proofs import gradient, labels, masks, resume, same_curve, schedule

PROOFS = {"labels": labels, "masks": masks, "gradient": gradient, "schedule": schedule, "same_curve": same_curve,
          "resume": resume}


class Examined(NamedTuple):
    name: str
    claim: str
    finding: Finding
    seconds: float


def examine(case: Case, names: list[str], say: Callable[[str], None]) -> list[Examined]:
    """Each proof's finding, said as soon as it is there. A proof that breaks has not proven anything: it fails."""
    found = []
    for name in names:
        proof, began = PROOFS[name], time.perf_counter()
        try:
            finding = proof.prove(case)
        except UserError:
            raise  # the user's mistake, and no proof's failure
        except Exception as error:  # whatever a user's own model or data does, the other proofs still run
            last_line = str(error).strip().splitlines()[-1] if str(error) else ""
            finding = Finding(False, f"{type(error).__name__}: {last_line}", "", "the proof could not run to its end")
        examined = Examined(name, proof.CLAIM, finding, time.perf_counter() - began)
        found.append(examined)
        say(_lines(examined))
    return found


def certificate(recipe: dict, found: list[Examined], not_proven: tuple[str, ...]) -> dict:
    """doctor.json: what was proven, with which figures, and where; and what was not."""
    return {"dstrain": __version__, "python": sys.version.split()[0],
            "packages": {name: metadata.version(name) for name in ("torch", "deepspeed")},
            "proved_at": "a shrunk copy of the recipe, on CPU ranks", "recipe": recipe,
            "proofs": [{"name": e.name, "claim": e.claim, "passed": e.finding.passed, "figure": e.finding.figure,
                        "tolerance": e.finding.tolerance, "cause": e.finding.cause,
                        "seconds": round(e.seconds, 2)} for e in found],
            "not_proven": list(not_proven)}


def _lines(examined: Examined) -> str:
    """Name and verdict, then indented what was found, what may be, and the remedy."""
    finding = examined.finding
    below = [f"found:   {finding.figure} ({examined.seconds:.1f} s)"]
    below += [f"allowed: {finding.tolerance}"] if finding.tolerance else []
    below += [] if finding.passed else [f"likely:  {finding.cause}"]
    first = f"{'proven' if finding.passed else 'FAILED':<7} {examined.name:<11} {examined.claim}"
    return "\n".join([first, *(f"{'':<20}{line}" for line in below)])

"""doctor.json: what was proven, with which figures, and where; and what was not."""

from __future__ import annotations

import sys
from importlib import metadata

from dstrain import __version__
from dstrain.doctor.examined import Examined


def certificate(recipe: dict, found: list[Examined], not_proven: tuple[str, ...]) -> dict:
    return {"dstrain": __version__, "python": sys.version.split()[0],
            "packages": {name: metadata.version(name) for name in ("torch", "deepspeed")},
            "recipe": recipe, "proofs": [_as_json(examined) for examined in found],
            "not_proven": [*not_proven, *(f"{e.name}: {e.why_not}" for e in found if e.finding is None)]}


def _as_json(examined: Examined) -> dict:
    told = {"name": examined.name, "claim": examined.claim, "proved_at": examined.at, "verdict": examined.verdict,
            "seconds": round(examined.seconds, 2)}
    finding = examined.finding
    if finding is None:
        return told | {"why_not": examined.why_not}
    return told | {"passed": finding.passed, "figure": finding.figure, "tolerance": finding.tolerance,
                   "cause": finding.cause, "remedy": finding.remedy}

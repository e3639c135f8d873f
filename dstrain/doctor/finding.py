"""What a proof found: a figure against a tolerance, and where it fails, the likely cause and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    passed: bool
    figure: str
    """what was measured"""
    tolerance: str
    """what it may be, and why"""
    cause: str = ""
    """where it failed: the likely cause, as near as the figures tell"""
    remedy: str = ""
    """where it failed: what to do"""


class NotProven(Exception):
    """The claim cannot be tried here (its text says why): neither proven nor failed, and said so."""


def within(figure: float, bound: float, unit: str, why: str, cause: str) -> Finding:
    """A measured error that must not exceed its bound; NaN never passes."""
    passed = figure <= bound
    return Finding(passed, f"{figure:.1e} {unit}", f"at most {bound:.0e}: {why}", "" if passed else cause)


def exactly(different: int, compared: int, what: str, cause: str) -> Finding:
    """A count of differences that must be zero, out of comparisons that must have been made."""
    passed = different == 0 and compared > 0
    return Finding(passed, f"{different:,} of {compared:,} {what} differ", "none, to the bit", "" if passed else cause)


def largest(errors: Iterable[float]) -> float:
    """The largest of measured errors. Infinite if any is NaN (which max() would pass over), and if there is none."""
    errors = list(errors)
    return max(errors) if errors and all(map(math.isfinite, errors)) else math.inf


def relative(found: float, expected: float) -> float:
    """The relative difference of two numbers; infinite unless both are finite."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return math.inf
    if found == expected:
        return 0.0
    return abs(found - expected) / abs(expected) if expected else math.inf

"""Limits of single fields of a recipe: written beside the field, checked when a recipe is read."""

from __future__ import annotations

from dataclasses import field
from typing import Any

MOST_ROWS = 2**20
"""also tokens of a row, and lanes: far above any real run, and a slip of the keyboard ends here, not in a hang"""
MOST_STEPS = 2**53
"""also tokens: up to here every whole number is exact as a float too"""


def bounded(default: Any = ..., *, low: float | None = None, high: float | None = None,
            above: float | None = None, below: float | None = None, choices: tuple | None = None) -> Any:
    """A dataclass field with limits: low <= value <= high, above < value < below, or one of `choices`."""
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": choices}
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)

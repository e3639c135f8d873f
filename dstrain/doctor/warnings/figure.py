"""A figure that a user should see before a run starts, with advice where it is off the usual. Never a failure."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    name: str
    figure: str
    advice: str = ""
    """what to do; empty where the figure is nothing to worry about"""

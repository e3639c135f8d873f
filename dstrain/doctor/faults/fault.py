"""A fault of the self-test: how it looked, which proof is there for it, and how it is planted and tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding


@dataclass(frozen=True)
class Fault:
    name: str
    looked: str
    """how it looked in the code and in the curves, in a line"""
    proof: str
    """name of the proof that must catch it"""
    attempt: Callable[[Case], Finding]
    """plants it, lets that proof judge, and pulls it out again. The case is healthy before and after"""

"""One proof, tried: what it found or why it could not be tried, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from dstrain.config.errors import UserError
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.place import refuse_place

TO_ITS_END = "the proof runs to its end"


class Examined(NamedTuple):
    name: str
    claim: str
    at: str
    """on what it was proved: "data", "shrunk" or "full" """
    finding: Finding | None
    """None where the claim could not be tried"""
    why_not: str
    """why it could not be"""
    seconds: float

    @property
    def passed(self) -> bool:
        return self.finding is not None and self.finding.passed

    @property
    def failed(self) -> bool:
        return self.finding is not None and not self.finding.passed

    @property
    def verdict(self) -> str:
        return "proven" if self.passed else "FAILED" if self.failed else "not proven"


def examined(name: str, claim: str, at: str, attempt: Callable[[], Finding]) -> Examined:
    """A proof that breaks has not proven anything: it fails. A user's mistake is no proof's failure, and a
    full disk neither."""
    began, finding, why_not = time.perf_counter(), None, ""
    try:
        finding = attempt()
    except UserError:
        raise
    except NotProven as reason:
        why_not = str(reason)
    except Exception as error:  # whatever a user's own model or data does, the other proofs still run
        refuse_place(error)
        finding = _broken(error)
    return Examined(name, claim, at, finding, why_not, time.perf_counter() - began)


def broke(finding: Finding) -> bool:
    """Whether the proof could not be run to its end: it failed, but has shown nothing."""
    return finding.tolerance == TO_ITS_END


def _broken(error: Exception) -> Finding:
    lines = str(error).strip().splitlines()
    return Finding(False, f"{type(error).__name__}: {lines[-1] if lines else ''}", TO_ITS_END,
                   "the model, the data or the proof itself broke on the way",
                   "find out what broke with `dstrain train RECIPE run.steps=2`, or report it with this line")

"""One proof, tried: what it found or why it could not be tried, and how long that took."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dstrain.config.errors import UserError
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.place import refuse_place

PACKAGE = Path(__file__).resolve().parents[1]
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


def what_broke(error: Exception) -> str:
    """The error's last line, and the last line of code outside of dstrain and of installed packages that led there."""
    lines = str(error).strip().splitlines()
    own = [frame for frame in traceback.extract_tb(error.__traceback__)
           if not frame.filename.startswith(("<", str(PACKAGE), sys.prefix, sys.base_prefix))
           and "site-packages" not in frame.filename]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {lines[-1] if lines else ''}{where}"


def _broken(error: Exception) -> Finding:
    return Finding(False, what_broke(error), TO_ITS_END,
                   "the model, the data or the proof itself broke on the way",
                   "find out what broke with `dstrain train RECIPE run.steps=2`, or report it with this line")

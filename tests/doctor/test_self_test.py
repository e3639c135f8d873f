"""`dstrain doctor --self-test`: what it shows, when it ends with 1, and that the docs have the same table.

The faults of the slowest proofs are not planted here: test_proofs_can_fail.py plants each of them.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.examined import Examined
from dstrain.doctor.faults.fault import Fault
from dstrain.doctor.faults.in_training import OF_EXPERTS, OF_HEADS, OF_PUZZLES
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.registry import PROOFS
from dstrain.doctor.screen import Screen
from dstrain.doctor.self_test import FAULTS, attempt, judged, self_test

DOCS = Path(__file__).resolve().parents[2] / "docs/doctor.md"
SLOW = ("mode", "gradient", "schedule", "curve", "same_curve", "logged", "resume", "rebuild")
RIGHT, WRONG = Finding(True, "0 differ", "none"), Finding(False, "3 differ", "none", "a leak")


def planted(found) -> Fault:
    def attempt_it(case):
        if isinstance(found, Exception):
            raise found
        return found

    return Fault("leak", "too good", "future", attempt_it)


def test_on_what_is_healthy_all_hold_and_each_planted_fault_is_caught():
    out = io.StringIO()
    case = Case.of(load_recipe("quickstart"))
    quick = [fault for fault in FAULTS if fault.proof not in SLOW]
    try:
        assert self_test(case, Screen(out), quick, [name for name in PROOFS if name not in SLOW]) == 0, out.getvalue()
    finally:
        case.close()
    shown = re.findall(r"^(caught|not tried) +(.+?) +by (\w+) +[\d.]+ s$", out.getvalue(), re.MULTILINE)
    assert [(name, proof) for _, name, proof in shown] == [(fault.name, fault.proof) for fault in quick]
    of_others = [fault for fault in quick if fault in (*OF_EXPERTS, *OF_HEADS, *OF_PUZZLES)]
    assert len([name for verdict, name, _ in shown if verdict == "caught"]) >= len(quick) - len(of_others) - 3 >= 40


@pytest.mark.parametrize("found, verdict, missed", [
    (WRONG, "caught", False), (RIGHT, "PASSED", True), (NotProven("no segments"), "not tried", False),
    (RuntimeError("shapes"), "CRASHED", True),
    (replace(WRONG, tolerance="the proof runs to its end"), "CRASHED", True)])
def test_a_fault_that_passes_or_only_breaks_its_proof_is_missed(found, verdict, missed):
    tried = attempt(planted(found), None, Screen(io.StringIO()))
    assert (tried.verdict, tried.missed) == (verdict, missed)


@pytest.mark.parametrize("passed, found, code", [(True, WRONG, 0), (True, RIGHT, 1), (False, WRONG, 1)])
def test_it_ends_with_1_where_a_fault_passes_and_where_what_is_healthy_fails(passed, found, code):
    healthy = [Examined("future", "it holds", "shrunk", RIGHT if passed else WRONG, "", 0.1)]
    tried = [attempt(planted(found), None, Screen(io.StringIO()))]
    assert judged(healthy, tried, Screen(out := io.StringIO())) == code
    assert ("not caught: leak" in out.getvalue()) == (found is RIGHT)
    assert ("FAILED on what is healthy: future" in out.getvalue()) == (not passed)


def test_the_docs_have_all_faults_with_how_they_looked_and_the_proofs_that_catch_them():
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert rows == [(fault.name, fault.looked.replace("|", "/"), fault.proof) for fault in FAULTS]


def test_the_docs_have_all_proofs_with_their_claims():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (\w+) \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == [(proof.name, proof.claim, proof.at) for proof in PROOFS.values()]

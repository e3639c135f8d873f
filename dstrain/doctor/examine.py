"""Runs the proofs one after the other, and says what each found as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable

from dstrain.doctor.case import Case
from dstrain.doctor.duration import shrinks
from dstrain.doctor.examined import Examined, examined
from dstrain.doctor.registry import PROOFS, Proof


def examine(case: Case, names: list[str], say: Callable[[Examined], None],
            begin: Callable[[str], None] = lambda name: None) -> list[Examined]:
    """Each proof's finding, in the order of the names; `begin` is told what runs next."""
    found = []
    for name in names:
        begin(name)
        proof = PROOFS[name]
        at = "full" if proof.at == "shrunk" and not shrinks(case) else proof.at
        found.append(examined(name, _claim(proof, case), at, lambda: proof.prove(case)))
        say(found[-1])
    return found


def _claim(proof: Proof, case: Case) -> str:
    """What is said of several ranks was seen on one, where one ran."""
    alone = "ranks" in proof.claim and max(case.worlds) == 1
    return proof.claim + " (here one rank alone ran)" * alone

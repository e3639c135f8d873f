"""How long the proofs will take where they cannot run on a small copy: said before they begin."""

from __future__ import annotations

from dataclasses import replace

from dstrain.config.shape import positions_a_step
from dstrain.doctor.case import Case
from dstrain.doctor.warnings.look import passed

FIXED_S = 30.0
"""imports, ranks that start, and reading data"""
STEPS = 250
"""of the shrunk batch, about, over all proofs"""


def shrinks(case: Case) -> bool:
    """Whether the proofs run on a smaller model: a class of the user's own without `shrink` stays as it is."""
    if case.full is None or case.full.model.code is None:
        return True
    return replace(case.recipe.model, code=None, dropout=0.0) != replace(case.full.model, code=None, dropout=0.0)


def expected_s(case: Case) -> float:
    """Measured on one pass, with the number of passes that the proofs usually take."""
    subject = case.subject()
    one = passed(subject)
    return FIXED_S + STEPS * one.seconds * positions_a_step(case.recipe) / one.positions

"""The proofs that a machine without torch asks for are those that there are."""

from __future__ import annotations

from dstrain.config.proof_names import PROOF_NAMES
from dstrain.doctor.registry import PROOFS


def test_the_names_that_are_known_without_torch_are_all_proofs_in_their_order():
    assert PROOF_NAMES == tuple(PROOFS)

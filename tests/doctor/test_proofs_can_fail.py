"""A proof that cannot fail proves nothing: each planted fault must be found by the proof that is there for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from dstrain.config.load import load_recipe
from dstrain.data import batching
from dstrain.doctor.case import Case
from dstrain.doctor.examined import broke
from dstrain.doctor.faults import in_models
from dstrain.doctor.faults.fault import Fault
from dstrain.doctor.faults.in_training import FAULTS
from dstrain.doctor.faults.of_data import labels_not_shifted
from dstrain.doctor.faults.planting import planted
from dstrain.doctor.finding import NotProven
from dstrain.doctor.registry import PROOFS
from dstrain.runtime.dist import Ranks

pytestmark = pytest.mark.ranks

USED = list(dict.fromkeys(fault.proof for fault in FAULTS))
OF_THE_TRAINER = ("gradient", "update", "schedule", "curve", "loop", "same_curve", "logged", "resume", "rebuild")
"""of pairs, what is planted into the trainer is not tried again: `dstrain doctor --self-test` does"""

RUN_ELSEWHERE = ("gradient", "schedule", "same_curve", "resume")
"""on healthy recipes of both families, by other tests"""
NAMED = {"recipe not in the checkpoint": "recipe.yaml", "recipe where nobody looks": "recipe.yaml",
         "tokenizer of another run": "checkpoint/tokenizer"}
"""in the figure of a fault that ends another process: that it ended for this reason and no other"""


def name_of(fault: Fault) -> str:
    return fault.name.replace(" ", "_")


@pytest.fixture(scope="module")
def texts() -> Iterator[Case]:
    case = Case.of(load_recipe("quickstart", ["engine.config=zero2_fp32"]))
    yield case
    case.close()


@pytest.fixture(scope="module")
def pairs() -> Iterator[Case]:
    """A tokenizer of bytes: none has to be learned."""
    case = Case.of(load_recipe("numbers-en-de", ["tokenizer=bytes", "objective.label_smoothing=0.1"]))
    yield case
    case.close()


def caught(fault: Fault, case: Case) -> None:
    try:
        finding = fault.attempt(case)
    except NotProven as reason:
        assert str(reason).startswith("the family"), reason
        pytest.skip(str(reason))
    assert not finding.passed and finding.cause, finding
    assert NAMED.get(fault.name, "") in finding.figure, finding
    assert not broke(finding), f"it has only made the proof break: {finding}"


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_a_planted_fault_fails_its_proof(texts: Case, fault: Fault) -> None:
    caught(fault, texts)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.proof not in OF_THE_TRAINER], ids=name_of)
def test_a_planted_fault_fails_its_proof_on_pairs(pairs: Case, fault: Fault) -> None:
    caught(fault, pairs)


@pytest.mark.parametrize("name", [name for name in USED if name not in RUN_ELSEWHERE])
def test_without_a_fault_it_passes(texts: Case, name: str) -> None:
    finding = PROOFS[name].prove(texts)
    assert finding.passed, finding


@pytest.mark.parametrize("name", [name for name in USED if name not in ("documents", *RUN_ELSEWHERE)])
def test_without_a_fault_it_passes_on_pairs(pairs: Case, name: str) -> None:
    finding = PROOFS[name].prove(pairs)
    assert finding.passed, finding


def test_each_proof_of_the_production_path_has_a_fault_and_no_two_faults_have_one_name() -> None:
    of_the_path = {name for name in PROOFS if importlib.util.find_spec(f"dstrain.doctor.proofs.{name}")}
    assert len(of_the_path) >= 11 and of_the_path <= set(USED)
    names = [fault.name for fault in (*FAULTS, *in_models.FAULTS)]
    assert len(set(names)) == len(names)


def test_a_fault_is_pulled_out_again_here_and_in_the_ranks_when_its_proof_breaks(texts: Case) -> None:
    right = batching.collate
    with pytest.raises(ZeroDivisionError):
        with planted(texts, labels_not_shifted):
            assert batching.collate is not right and texts.ranks(1).run(collate_is_wrong) == [True]
            raise ZeroDivisionError
    assert batching.collate is right and texts.ranks(1).run(collate_is_wrong) == [False]


def collate_is_wrong(ranks: Ranks) -> bool:
    return batching.collate.__module__ != "dstrain.data.collate"

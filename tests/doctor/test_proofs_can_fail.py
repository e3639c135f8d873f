"""A proof that cannot fail proves nothing: each planted fault must be found by the proof that is there for it."""

from __future__ import annotations

from dataclasses import replace

import faults
import pytest

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.examine import PROOFS

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def case():
    small = Case.of(load_recipe("quickstart"))
    yield replace_engine(small, "zero2_fp32")
    small.close()


def replace_engine(case: Case, name: str) -> Case:
    case.recipe = replace(case.recipe, engine=replace(case.recipe.engine, config=name))
    return case


@pytest.mark.parametrize("fault, proof", [
    ("mean_of_means", "same_curve"), ("mean_of_means", "gradient"), ("dropout_by_generator", "same_curve"),
    ("schedule_never_stepped", "schedule"), ("schedule_one_step_late", "schedule"), ("moments_not_restored", "resume"),
    ("update_count_not_restored", "resume"), ("place_of_the_prefetched", "resume"), ("unused_parameter", "gradient"),
    ("labels_not_shifted", "labels"), ("labels_not_shifted", "gradient"), ("padding_scored", "labels"),
    ("documents_not_separated", "masks"), ("future_seen", "masks"), ("mask_swallowed", "masks"),
    ("trainee_swallows_inputs", "masks"), ("padded_width_counts", "masks"), ("prompts_mixed", "masks"),
    ("nan_on_two_ranks", "same_curve"), ("unfinished_validation_rows_dropped", "labels"), ("validated_twice", "labels"),
    ("shuffled_with_replacement", "labels"), ("validation_leaves_eval_mode", "resume")])
def test_a_planted_fault_fails_its_proof(case, fault, proof):
    faults.plant(None, fault)
    groups = [case.ranks(world) for world in (1, 2)]
    for group in groups:
        group.run(faults.plant, fault)
    try:
        finding = PROOFS[proof].prove(case)
    finally:
        faults.pull(None)
        for group in groups:
            group.run(faults.pull)
    assert not finding.passed and finding.cause, finding


def test_without_a_fault_all_of_them_pass(case):
    assert {name: proof.prove(case).passed for name, proof in PROOFS.items()} == dict.fromkeys(PROOFS, True)

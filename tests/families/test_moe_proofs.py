"""The doctor on experts and further heads: green for both kinds of heads, and each of their faults is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.examined import broke
from dstrain.doctor.faults.in_training import OF_EXPERTS, OF_HEADS
from dstrain.doctor.on_ranks import on_ranks
from dstrain.doctor.registry import PROOFS
from dstrain.doctor.warnings import proportions, sizes
from dstrain.doctor.warnings.look import look_at

pytestmark = pytest.mark.ranks

SMALL = ["model={width: 64, heads: 2, layers: 2, ff: 128, experts: 4, top_k: 2, expert_ff: 64, next_tokens: 3}",
         "batch={rows: 8, micro_rows: 8, length: 64}", "run.steps=40"]
SEQUENTIAL = ["model.further=sequential", "model.every=2", "model.shared_experts=1", "engine.config=zero2_fp32",
              "objective.begins=[1,20,30]", "objective.final_weights=[1,0.2,0.1]"]
OF_THE_MODEL = ("arguments", "future", "padding", "neighbours", "documents", "targets", "first_loss", "gradients",
                "derivative", "by_heart", "continuations")
OWN = '''
from dstrain.models.moe_lm import MoeLm


class Own(MoeLm):
    def forward(self, *, ids_BT, segments_BT, positions_BT, keys_B, attention_mask=None):
        {first}
        return super().forward(ids_BT=ids_BT, segments_BT=segments_BT, positions_BT=positions_BT, keys_B=keys_B)
'''


def case_of(*more: str) -> Case:
    return Case.of(load_recipe("moe-quickstart", [*SMALL, *more]))


@pytest.fixture(scope="module")
def parallel():
    case = case_of()
    yield case
    case.close()


@pytest.fixture(scope="module")
def sequential():
    """With what the other has not: a curriculum, weights that move, a layer without experts, shared ones, ZeRO-2."""
    case = case_of(*SEQUENTIAL)
    yield case
    case.close()


@pytest.mark.parametrize("name", ("future", "padding", "targets", "gradients"))
def test_parallel_heads_are_proven(parallel, name):
    finding = PROOFS[name].prove(parallel)
    assert finding.passed, finding


@pytest.mark.parametrize("name", (*OF_THE_MODEL, "gradient", "update", "logged", "rebuild"))
def test_sequential_heads_and_a_curriculum_are_proven(sequential, name):
    finding = PROOFS[name].prove(sequential)
    assert finding.passed, finding


@pytest.mark.parametrize("fault", (*OF_EXPERTS, *OF_HEADS), ids=lambda fault: fault.name.replace(" ", "_"))
def test_each_fault_of_experts_and_of_further_heads_is_caught(sequential, fault):
    finding = fault.attempt(sequential)
    assert not finding.passed and finding.cause and not broke(finding), finding


def test_heads_weights_by_hand_are_those_that_are_trained_with(sequential):
    """At step 1 the first head alone; at the last 1 : 0.2 : 0.1."""
    recipe = sequential.full
    anatomy, objective = sequential.family.anatomy, sequential.family.build_objective(recipe)
    found = [anatomy.loss(recipe, step)[0] for step in (1, 19, 20, 29, 30, 40, None)]
    assert found[0] == (1.0, 0.0, 0.0) and found[-1] == pytest.approx((10 / 13, 2 / 13, 1 / 13))
    for step, weights in zip((1, 19, 20, 29, 30, 40, 40), found, strict=True):
        assert weights == pytest.approx(objective.weights_at(step)[:3]), step
    assert sequential.recipe.objective.begins == (1, 2, 2)


def test_a_bias_by_hand_goes_against_the_load(parallel):
    """Of 8, 0, 4 and 4 tokens 4 is the share; a count within a fifth of it may be rounding's."""
    routed = type("Output", (), {"routed": (type("One", (), {"seen_X": torch.tensor([8., 0, 4, 4, 16, 1])}),)})
    counters = {"router.nudges": torch.tensor([1, 0, 0, 0])}
    after, sure = parallel.family.anatomy.counters_after(parallel.recipe, counters, [routed], 0.2)["router.nudges"]
    assert after.tolist() == [0, 1, 0, 0] and sure.tolist() == [True, True, False, False]


@pytest.mark.parametrize("first, unread", [("pass", []), ("segments_BT = segments_BT * 0", ["segments_BT"])])
def test_an_own_class_that_ignores_the_mask_is_found(tmp_path, first, unread):
    """The loss knows the documents all the same: it takes the further heads' labels from them."""
    (tmp_path / "own.py").write_text(OWN.format(first=first))
    case = case_of(f"model.code={tmp_path}/own.py:Own")
    try:
        finding = PROOFS["arguments"].prove(case)
    finally:
        case.close()
    assert finding.passed is not bool(unread), finding
    assert all(name in finding.figure for name in unread), finding


def test_ranks_that_do_not_divide_share_out_fewer_experts():
    recipe = load_recipe("moe-quickstart", ["engine.expert_parallel=4"])
    assert [on_ranks(recipe, world).engine.expert_parallel for world in (1, 2, 3, 4, 8)] == [1, 2, 1, 4, 4]


def test_what_is_not_proven_says_how_few_ranks_shared_out_experts():
    case = case_of("engine.expert_parallel=4")
    try:
        assert any(line.startswith("engine.expert_parallel 4: proven with 2") for line in case.not_proven)
    finally:
        case.close()


def test_figures_count_what_a_token_meets(parallel, tmp_path):
    """2 layers, of 4 experts 2 for each token, each 3 x 64 x 64: 49,152 of the parameters are idle."""
    look = look_at(replace(parallel.full, data=parallel.recipe.data), parallel, tmp_path)
    size, of_experts = sizes.figures(look)[0], proportions.figures(look)[0]
    assert f"{look.parameters:,} parameters, {look.parameters - 49_152:,} of them active a token" in size.figure
    assert "per active parameter" in size.figure
    assert proportions.figures(look)[1].figure.startswith("128 channels in further heads, 2 times the width of 64")
    assert of_experts.figure.startswith("2 of 4, of 64 channels each: 128 a token, 2 times the width of 64")

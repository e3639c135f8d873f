"""Experts that ranks share out change no number: losses, rows, norms, gradients and biases are those of one rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from moe_jobs import FAR, float64_gradient, shared_out, steps_before_a_tie, steps_with_experts, trap

from dstrain.doctor.finding import largest, relative
from dstrain.doctor.proofs.gradient import difference
from dstrain.doctor.short_run import whole

pytestmark = pytest.mark.ranks
BOUND, STEPS, AFTER_A_TIE = 1e-5, 20, 1e-3
ONE_EXPERT = "blocks.0.ff.experts."


@pytest.fixture(scope="module")
def one_rank(moe):
    return moe.ranks(1).run(steps_with_experts, shared_out(moe.recipe, 1, 8), "zero1_fp32", STEPS)[0]


def off(seen, reference, key, steps):
    pairs = list(zip(seen.records, reference.records, strict=True))[:steps]
    return largest(relative(one[key], other[key]) for one, other in pairs)


@pytest.fixture(scope="module")
def shapes(moe):
    return {name: tuple(p.shape) for name, p in moe.fresh_trainee()[0].model.named_parameters()}


@pytest.mark.parametrize("world, peers, micro_rows, stage", [
    (1, 1, 2, 3), (2, 1, 4, 2), (2, 2, 2, 0), (2, 2, 4, 1), (2, 2, 1, 2), (2, 2, 2, 3), (4, 2, 2, 3), (4, 4, 2, 1)])
def test_twenty_steps_are_those_of_one_rank_that_has_all_experts(moe, one_rank, world, peers, micro_rows, stage):
    """Counts are whole numbers, so biases are the same to the bit, until a choice of an expert ties within rounding."""
    recipe = shared_out(moe.recipe, peers, micro_rows)
    if micro_rows == 1:  # tokens travel once more in the backward pass
        recipe = replace(recipe, model=replace(recipe.model, checkpoint_activations=True))
    of_ranks = moe.ranks(world).run(steps_with_experts, recipe, f"zero{stage}_fp32", STEPS)
    assert len(one_rank.rows) == STEPS and [seen.rows for seen in of_ranks] == [one_rank.rows] * world
    assert [seen.nudges for seen in of_ranks] == [of_ranks[0].nudges] * world
    same = steps_before_a_tie(of_ranks[0], one_rank)
    assert same > STEPS // 2
    for seen in of_ranks:
        assert seen.nudges[:same] == one_rank.nudges[:same]
        for key in ("loss", "grad_norm"):
            assert off(seen, one_rank, key, same) <= BOUND, key
        assert off(seen, one_rank, "loss", STEPS) <= AFTER_A_TIE
    assert min(record["grad_norm"] for record in one_rank.records) > 2 * recipe.optim.clip  # so clipping bites
    assert any(nudge not in (STEPS, -STEPS) for layer in one_rank.nudges[-1] for nudge in layer)


@pytest.mark.parametrize("world, peers, stage", [(2, 2, 0), (2, 2, 1), (4, 2, 2), (4, 2, 3)])
def test_first_gradient_is_that_of_one_process_in_float64_with_all_terms(moe, shapes, world, peers, stage):
    recipe = shared_out(moe.recipe, peers, 2, balance_weight=0.5, z_weight=0.1)
    recipe = replace(recipe, optim=replace(recipe.optim, clip=0.0))
    expected = float64_gradient(moe, recipe)
    seen = moe.ranks(world).run(steps_with_experts, recipe, f"zero{stage}_fp32", 1)
    found = whole([of_rank.gradients[0] for of_rank in seen], shapes)
    assert difference(found, expected) <= BOUND
    for name in expected:
        if "experts" in name or "router" in name:
            assert difference({name: found[name]}, {name: expected[name]}) <= BOUND, name
    assert difference(float64_gradient(moe, shared_out(recipe, 1, balance_weight=0.0, z_weight=0.1)), expected) > 1e-3
    assert difference(float64_gradient(moe, shared_out(recipe, 1, balance_weight=0.5, z_weight=0.0)), expected) > 1e-3


TROUBLES = {"idle_from": 2, "filler_at": 3, "nan_at": 4}


@pytest.fixture(scope="module")
def troubled(moe, shapes):
    """On two ranks that both have all experts: by step the gradient, and the records."""
    seen = moe.ranks(2).run(steps_with_experts, shared_out(moe.recipe, 1), "zero1_fp32", 5, *TROUBLES.values())
    return [whole([of_rank.gradients[step] for of_rank in seen], shapes) for step in range(5)], seen[0]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_idle_expert_a_rank_without_rows_and_a_nan_hang_nothing_and_change_what_they_should(
        moe, shapes, troubled, stage):
    gradients, reference = troubled
    first, last = seen = moe.ranks(2).run(steps_with_experts, shared_out(moe.recipe, 2), f"zero{stage}_fp32", 5,
                                          *TROUBLES.values(), timeout_s=60)
    assert first.nudges == last.nudges and [record["skipped"] for record in first.records] == [
        record["skipped"] for record in reference.records] == [False, False, False, True, False]
    same = steps_before_a_tie(first, reference)
    assert same >= 3
    for step in (0, 1, 2, 4):
        found = whole([of_rank.gradients[step] for of_rank in seen], shapes)
        assert relative(first.records[step]["loss"], reference.records[step]["loss"]) <= (
            BOUND if step < same else AFTER_A_TIE)
        if stage and step < same:  # at stage 0 the optimizer clips inside its step, after this look
            assert difference(found, gradients[step]) <= BOUND
        of_last = [found[name][-1] for name in shapes if name.startswith(ONE_EXPERT)]
        assert [bool(values.any()) for values in of_last] == [step == 0] * 2  # nothing is left of the step before
    # The NaN: neither weights nor biases move, on any rank.
    assert first.nudges[3] == first.nudges[2] and first.nudges[4] != first.nudges[3]
    assert -FAR - 9 < first.nudges[4][0][-1] < -FAR + 9
    for of_rank in seen:
        before, after = ({name: values for name, _, values in of_rank.weights[step]} for step in (2, 3))
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind, ds_config, said", [
    ("no sign", "zero0_fp32", "takes no heed of experts that live apart"),
    ("no sign", "zero1_bf16", "takes no heed of experts that live apart"),
    ("reduced as any other", "zero0_fp32", "experts.gate_up over 2 ranks at ZeRO stage 0, but 1 of 2 hold"),
    ("partitioned as any other", "zero3_fp32", "experts.gate_up over 2 ranks at ZeRO stage 3, but 1 of 2 hold"),
    ("the other's share", "zero1_fp32", "rank 0 holds part 1 of model.blocks.0.ff.experts.gate_up, but"),
    ("both the first", "zero2_fp32", "rank 1 holds part 0 of model.blocks.0.ff.experts.gate_up, but")])
def test_what_deepspeed_would_get_wrong_without_a_word_stops_the_run_at_its_start(moe, kind, ds_config, said):
    for of_rank in moe.ranks(2).run(trap, shared_out(moe.recipe, 2), ds_config, kind):
        assert said in of_rank

"""Adapters beside frozen weights on real ranks: only adapters move, and all is saved and loaded, at all stages."""

from __future__ import annotations

import pytest
import torch
from adapter_jobs import adapter_steps, gradient_without_engine, refused

from dstrain.doctor.short_run import whole
from dstrain.nn.adapters import is_adapter

pytestmark = pytest.mark.ranks

STEPS = 5


@pytest.fixture(scope="module")
def shapes(case):
    gradient, frozen = gradient_without_engine(case.recipe)
    model = case.fresh_trainee()[0].model
    base = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert sorted(base) == sorted(frozen)
    return base | {name: of_name.shape for name, of_name in gradient.items()}


@pytest.fixture(scope="module")
def runs(case):
    """Five steps each, on each shape, by what each rank saw; made when they are asked for."""
    made = {}

    def of(stage, world, precision="fp32"):
        if (stage, world, precision) not in made:
            made[stage, world, precision] = case.ranks(world).run(adapter_steps, case.recipe,
                                                                  f"zero{stage}_{precision}", 1, STEPS)
        return made[stage, world, precision]

    return of


@pytest.mark.parametrize("stage, precision", [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"),
                                              (3, "bf16")])
def test_only_adapters_move(case, shapes, runs, stage, precision):
    """Of a bf16 engine frozen weights are what it computes with: rounded to bf16 once, and never again."""
    seen = runs(stage, 2, precision)
    before, after = (whole([rank.weights[place] for rank in seen], shapes) for place in (0, 1))
    model = case.fresh_trainee()[0].model
    for name, weight in after.items():
        assert not weight.isnan().any(), name
        if is_adapter(name):
            assert not torch.equal(weight, before[name]), name
        else:
            expected = model.get_parameter(name).detach()
            expected = expected.bfloat16() if precision == "bf16" else expected
            assert torch.equal(weight, expected.double()) and torch.equal(before[name], weight), name


@pytest.mark.parametrize("stage, world", [(0, 1), (3, 1), (0, 2), (1, 2), (2, 2), (3, 2)])
def test_losses_are_those_of_every_other_shape(runs, stage, world):
    expected, found = runs(1, 1)[0].nll, runs(stage, world)[0].nll
    assert len(found) == STEPS and found == pytest.approx(expected, rel=1e-5)
    assert expected[-1] != pytest.approx(expected[0], rel=1e-3)


@pytest.mark.parametrize("stage, world", [(0, 2), (1, 2), (2, 2), (3, 2)])
def test_the_gradient_is_that_of_plain_torch_and_norms_are_of_adapters_alone(case, shapes, runs, stage, world):
    expected, _ = gradient_without_engine(case.recipe)
    seen = runs(stage, world)
    found = whole([rank.gradients[0] for rank in seen], {name: shapes[name] for name in expected})
    norm = sum(float(gradient.square().sum()) for gradient in expected.values()) ** 0.5
    clipped = 1.0 if stage == 0 else min(1.0, case.recipe.optim.clip / norm)  # stage 0 clips inside its optimizer
    for name, gradient in expected.items():
        assert float((found[name] - clipped * gradient).norm() / (clipped * gradient).norm()) < 1e-4, name
    assert set(seen[0].norms) == set(expected)
    assert all(norms.gradient > 0 and norms.update > 0 for norms in seen[0].norms.values())
    trained = sum(gradient.numel() for gradient in expected.values())
    frozen = sum(shapes[name].numel() for name in shapes) - trained
    assert f"for {trained:,} parameters (the other {frozen:,} stay as they are)" in seen[0].optimizer


@pytest.mark.parametrize("ds_config, world", [("zero0_fp32", 2), ("zero2_fp32", 2), ("zero3_fp32", 2),
                                              ("zero1_bf16", 2), ("zero3_bf16", 2)])
def test_what_goes_on_from_a_checkpoint_is_bit_identical(case, shapes, tmp_path, ds_config, world):
    straight = case.ranks(world).run(adapter_steps, case.recipe, ds_config, 1, 4, tmp_path, 2)
    resumed = case.ranks(world).run(adapter_steps, case.recipe, ds_config, 3, 4, tmp_path)
    assert resumed[0].nll == straight[0].nll[2:]
    for one, other in zip(straight, resumed, strict=True):
        assert_same(one.weights[1], other.weights[1])
        assert_same(one.moments, other.moments)
    trained = sum(shape.numel() for name, shape in shapes.items() if is_adapter(name))
    assert f"2 moments of the {trained:,} trained, as saved at step 2" in resumed[0].said


@pytest.mark.parametrize("there, here", [(("zero3_fp32", 2), ("zero1_fp32", 1)), (("zero1_fp32", 1), ("zero3_fp32", 2)),
                                         (("zero2_fp32", 2), ("zero0_fp32", 1))])
def test_a_checkpoint_goes_on_at_another_stage_on_other_ranks(case, shapes, tmp_path, there, here):
    straight = case.ranks(there[1]).run(adapter_steps, case.recipe, there[0], 1, 4, tmp_path, 2)
    resumed = case.ranks(here[1]).run(adapter_steps, case.recipe, here[0], 3, 4, tmp_path)
    assert resumed[0].nll == pytest.approx(straight[0].nll[2:], rel=1e-5)
    base = {name: shape for name, shape in shapes.items() if not is_adapter(name)}
    one, other = (whole([[part for part in rank.weights[1] if part[0] in base] for rank in seen], base)
                  for seen in (straight, resumed))
    assert all(torch.equal(one[name], other[name]) for name in base)


@pytest.mark.parametrize("what, said", [("buffer", "neither trained nor saved: model.mean"),
                                        ("all frozen", "there is nothing to train")])
def test_what_no_checkpoint_carries_is_still_refused(case, what, said):
    assert said in case.ranks(1).run(refused, case.recipe, what)[0]


def assert_same(one, other):
    assert [(name, start) for name, start, _ in one] == [(name, start) for name, start, _ in other]
    assert all(torch.equal(first, second) for (_, _, first), (_, _, second) in zip(one, other))

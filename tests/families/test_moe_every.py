"""Where only some layers have experts, they are counted and named as what they are."""

from __future__ import annotations

import pytest
import torch

from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe
from dstrain.families.moe import active_parameters
from dstrain.families.moe_seen import routing
from dstrain.models.moe_lm import MoeLm

SMALL = ("model={width: 16, heads: 2, layers: 5, ff: 24, experts: 4, top_k: 1, expert_ff: 12, every: 2, "
         "next_tokens: 1}",)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("moe-quickstart", SMALL)


def test_a_token_meets_all_parameters_but_those_of_the_experts_that_it_is_not_sent_to(recipe):
    parameters = sum(parameter.numel() for parameter in MoeLm(recipe.model, 50, 8, 0.0).parameters())
    two_layers_of_three_experts = 2 * 3 * (3 * 16 * 12)
    assert active_parameters(recipe, parameters) == parameters - two_layers_of_three_experts


def test_layers_are_numbered_as_their_blocks_are(recipe):
    model = MoeLm(recipe.model, 50, 8, 0.0)
    seen_LX = torch.tensor([[1.0, 1, 1, 1, 4, 2]] * 2)
    found = routing(recipe, model, torch.tensor([4, 2, 2 * 4]), seen_LX)
    assert [one.layer for one in found] == [1, 3] and [one.dropped for one in found] == [0, 0]
    assert [name for name, _ in model.named_buffers() if "nudges" in name] == [
        f"blocks.{one.layer}.ff.router.nudges" for one in found]

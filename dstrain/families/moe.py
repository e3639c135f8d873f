"""The family `moe`: a decoder-only language model with routed experts and several prediction heads; rows as of `lm`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dstrain.config.schema import Recipe
from dstrain.families import moe_seen
from dstrain.families.anatomy.moe import MOE_ANATOMY
from dstrain.families.lm import LM
from dstrain.families.own_class import model_of
from dstrain.families.upcycling import taken_over
from dstrain.models.moe_lm import MoeLm
from dstrain.objectives.next_tokens import NextTokens
from dstrain.objectives.trainee import Trainee


def _trainee(recipe: Recipe, tokenizer: Any) -> torch.nn.Module:
    bias_speed = recipe.objective.bias_speed if recipe.objective.has_bias else 0.0
    model = model_of(recipe, MoeLm, tokenizer.vocab_size, recipe.batch.length, bias_speed)
    return Trainee(model, _objective(recipe))


def _objective(recipe: Recipe) -> NextTokens:
    of = recipe.objective
    return NextTokens(of.weights, expert_layers(recipe), of.balance_weight if of.has_balance_term else 0.0,
                      of.z_weight, recipe.run.steps, of.begins, of.final_weights)


def expert_layers(recipe: Recipe) -> int:
    return recipe.model.layers // recipe.model.every


def active_parameters(recipe: Recipe, parameters: int) -> int:
    """Those that one token meets: of the routed experts only those that it is sent to."""
    model = recipe.model
    an_expert = 3 * model.width * model.expert_ff
    return parameters - expert_layers(recipe) * (model.experts - model.top_k) * an_expert


def _flops(recipe: Recipe, parameters: int) -> float:
    """As of `lm`, for the active parameters; each further head multiplies by the output matrix once more, and where it
    is a block has attention of its own."""
    model, further = recipe.model, recipe.model.next_tokens - 1
    attention = 12 * further * model.width * recipe.batch.length * (model.further == "sequential")
    active = active_parameters(recipe, parameters) + further * _embedding(recipe, parameters)
    return LM.flops_a_target(recipe, active) + attention


def _embedding(recipe: Recipe, parameters: int) -> int:
    """Parameters of the embedding, which is the output matrix: what the rest leaves. Of an own class nobody knows."""
    if recipe.model.code is not None:
        return 0
    with torch.device("meta"):
        without = MoeLm(recipe.model, 0, recipe.batch.length, 0.0)
    return parameters - sum(parameter.numel() for parameter in without.parameters())


def _model_in_words(recipe: Recipe, parameters: int) -> list[str]:
    model, layers = recipe.model, expert_layers(recipe)
    where = "each layer" if layers == model.layers else f"{layers} of {model.layers} layers"
    shared = f", {model.shared_experts} more for all" if model.shared_experts else ""
    heads = f"{model.next_tokens} heads ({model.further})" if model.next_tokens > 1 else "1 head"
    began = [f"its experts began as copies of a feed-forward in {model.upcycle}"] if model.upcycle else []
    return [f"{active_parameters(recipe, parameters) / 1e6:.3g}M active a token; {model.experts} experts in {where}, "
            f"{model.top_k} of them a token{shared}; {heads}", *began]


MOE = replace(LM, name="moe", build_trainee=_trainee, build_objective=_objective, flops_a_target=_flops,
              anatomy=replace(MOE_ANATOMY, active_parameters=active_parameters),
              model_in_words=_model_in_words, taken_over=taken_over, further_scores=moe_seen.further_scores,
              scores_in_words=moe_seen.in_words, shown=moe_seen.shown)

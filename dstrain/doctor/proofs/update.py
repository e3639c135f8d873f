"""The optimizer's update, written out by hand in float64: clipping, decay, moments, bias correction, learning rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from dstrain.config.schema import Optim, Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest
from dstrain.doctor.proofs.gradient import BOUND as GRADIENT_BOUND, difference, norm
from dstrain.doctor.proofs.schedule import asked_share
from dstrain.doctor.recipe_subject import fresh_trainee
from dstrain.doctor.reference import reference_of, reference_step
from dstrain.doctor.short_run import Trace, short_run, whole

CLAIM = ("weights after 3 steps are the optimizer's rule written out by hand, and so is what the model counts; the "
         "loss of one batch, repeated, falls")
STEPS, REPEATS, WARMUP = 3, 6, 2
BITES = 0.5
"""largest norm that is let through, as a share of the first gradient's"""
BOUND = 1e-4
SLACK = {"fp32": 0.01, "bf16": 0.2}
"""share of what was counted that rounding may have moved: where two choices are nearly as good"""
ROUNDING = 2.0 ** -23
"""of fp32, relative; each step rounds each weight once or twice"""
QUINTIC, ITERATIONS, ADAMW_RMS = (3.4445, -4.7750, 2.0315), 5, 0.2
"""Muon's, as published"""

Tensors = dict[str, Tensor]


def prove(case: Case) -> Finding:
    """The recipe's own rule, rates and decay, its warm-up squeezed; a clip that bites, where the recipe clips."""
    recipe = replace(in_micro_batches(case.recipe, case.family.anatomy.micro_sizes[-1]), schedule=replace(
        case.recipe.schedule, warmup_steps=WARMUP, decay_steps=case.recipe.schedule.decay_steps and 1),
        run=replace(case.recipe.run, steps=REPEATS))
    model = fresh_trainee(recipe, case.family, case.tokenizer()).model
    _, first = reference_step(recipe)
    if recipe.optim.clip:
        recipe = replace(recipe, optim=replace(recipe.optim, clip=BITES * norm(first)))
    traces = case.ranks(case.worlds[-1]).run(partial(short_run, closely=True), recipe, None, STEPS)
    of_gradients, of_state, of_counters = compare(case, recipe, model, traces)
    still = replace(recipe, model=replace(recipe.model, dropout=0.0))
    losses = case.ranks(1).run(partial(short_run, repeats=True), still, None, REPEATS)[0].losses
    return judged(of_gradients, of_state, losses, GRADIENT_BOUND[case.precision], case.precision, of_counters)


def judged(of_gradients: list[float], of_state: dict[str, float], losses: list[float], bound: float,
           precision: str, of_counters: tuple[int, int] = (0, 0)) -> Finding:
    error, worst = largest(of_state.values()), max(of_state, key=of_state.get)
    faults = []
    if not error <= BOUND:
        faults.append("another rule than the recipe's: moments' decays, weight decay (never on norms and biases), bias "
                      f"correction, the direction, or clipping; first seen in {worst}")
    if not largest(of_gradients) <= bound:
        faults.append("a gradient that is not clipped as asked, or holds that of the step before")
    if of_counters[0]:
        faults.append("what the model counts from step to step is counted on one rank or in one micro-batch alone, or "
                      "not from the tokens of the step")
    if not min(losses[1:]) < losses[0]:
        faults.append("steps go up, or optim.lr is far too large")
    return Finding(
        not faults, f"weights and moments {error:.1e} off after {STEPS} steps; clipped gradients "
        f"{largest(of_gradients):.1e} off a float64 reference; {_of_counters(*of_counters)}one batch's loss "
        f"{losses[0]:.4f} to {min(losses[1:]):.4f} in {len(losses)} steps",
        f"{BOUND:.0e} of what each parameter moved, beside the rounding of fp32; gradients {bound:.0e}, rounding of "
        f"{precision}; a loss that falls", "; ".join(faults),
        "compare optim.* and the optimizer's groups with what was meant" if faults else "")


def _of_counters(wrong: int, compared: int) -> str:
    return f"{wrong} of {compared} counters of the model off; " if compared else ""


def compare(case: Case, recipe: Recipe, model: nn.Module,
            traces: list[Trace]) -> tuple[list[float], dict[str, float], tuple[int, int]]:
    """(each step's gradient off the clipped float64 one, by parameter and kind its weight or moment off by how much,
    how many of the model's counters are wrong, and of how many).

    The rule is taken through the steps with the engine's own gradients: what AdamW makes of a rounded gradient near 0
    is anything, and no bound could hold a gradient and its rule at once. So it is with what the engine has counted.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    rule = ByHand.of(model, recipe.optim, whole([trace.start for trace in traces], shapes))
    of_gradients, wrong, compared = [], 0, 0
    for step in range(1, STEPS + 1):
        before = traces[0].counters[step - 1]
        _, expected, outputs = reference_of(recipe, step=step, weights=rule.weights, counters=before)
        counted = case.family.anatomy.counters_after(recipe, before, outputs, SLACK[case.precision])
        for name, (values, sure) in counted.items():
            found = [trace.counters[step][name] for trace in traces]
            wrong += sum(int((each != values)[sure].sum()) for each in found)
            wrong += sum(int((each != found[0])[~sure].sum()) for each in found[1:])
            compared += sum(each.numel() for each in found)
        found = whole([trace.gradients[step - 1] for trace in traces], shapes)
        if case.stage == 0:  # there the optimizer itself clips, behind where gradients are seen
            found = clipped(found, recipe.optim.clip)
        of_gradients.append(difference(found, clipped(expected, recipe.optim.clip)))
        rule.update(found, asked_share(recipe.schedule, step, recipe.run.steps), step)
    return of_gradients, rule.off(traces, shapes), (wrong, compared)


@dataclass
class ByHand:
    """The weights and moments of a model, in float64."""

    optim: Optim
    start: Tensors
    weights: Tensors
    moments: dict[str, Tensors]
    matrices: dict[str, int]
    """of Muon: by name, how many matrices each is made of"""
    decayed: frozenset[str]

    @staticmethod
    def of(model: nn.Module, optim: Optim, weights: Tensors) -> "ByHand":
        """From the engine's own first weights: in bf16 they are the initial ones, rounded."""
        matrices = model.hidden_matrices() if optim.name == "muon" else {}
        moments = {kind: {name: torch.zeros_like(weight) for name, weight in weights.items()
                          if (name in matrices) == (kind == "momentum")}
                   for kind in ("exp_avg", "exp_avg_sq", "momentum")}
        decayed = frozenset(name for name, weight in weights.items() if weight.dim() > 1 and not model.no_decay(name))
        return ByHand(optim, weights, dict(weights), moments, matrices, decayed)

    def update(self, gradient: Tensors, share: float, step: int) -> None:
        for name, weight in self.weights.items():
            peak = self.optim.lr if name not in self.matrices or self.optim.muon_lr is None else self.optim.muon_lr
            lr, decay = share * peak, self.optim.weight_decay if name in self.decayed else 0.0
            towards = self._muon(name, gradient[name]) if name in self.matrices else self._adamw(name, gradient[name],
                                                                                                  step)
            self.weights[name] = weight - lr * decay * weight - lr * towards

    def _adamw(self, name: str, g: Tensor, step: int) -> Tensor:
        (beta1, beta2), first, second = self.optim.betas, self.moments["exp_avg"], self.moments["exp_avg_sq"]
        first[name] = beta1 * first[name] + (1 - beta1) * g
        second[name] = beta2 * second[name] + (1 - beta2) * g * g
        return first[name] / (1 - beta1 ** step) / ((second[name] / (1 - beta2 ** step)).sqrt() + self.optim.eps)

    def _muon(self, name: str, g: Tensor) -> Tensor:
        average, keep = self.moments["momentum"], self.optim.muon_momentum
        average[name] = keep * average[name] + (1 - keep) * g
        ahead = (1 - keep) * g + keep * average[name]
        return torch.cat([orthogonal(part) * ADAMW_RMS * max(part.shape) ** 0.5
                          for part in ahead.chunk(self.matrices[name])])

    def off(self, traces: list[Trace], shapes: dict[str, torch.Size]) -> dict[str, float]:
        """Of each parameter and kind the norm of the difference, over how far it moved and beyond rounding."""
        errors = {}
        weights = whole([trace.weights for trace in traces], shapes)
        for name, weight in self.weights.items():
            rounding = STEPS * ROUNDING * float(weight.norm())
            errors[f"{name} (weight)"] = _off(weights[name] - weight, weight - self.start[name], rounding)
        for kind, moments in self.moments.items():
            found = whole([trace.moments.get(kind, []) for trace in traces], {name: shapes[name] for name in moments})
            errors |= {f"{name} ({kind})": _off(found[name] - moments[name], moments[name], 0.0) for name in moments}
        return errors


def _off(difference: Tensor, moved: Tensor, rounding: float) -> float:
    beyond = float(difference.norm()) - rounding
    return max(0.0, beyond) / float(moved.norm()) if beyond == beyond and float(moved.norm()) else float("inf")


def clipped(gradient: Tensors, clip: float) -> Tensors:
    """Scaled down to that norm, where it is larger; 0 clips nothing."""
    share = min(1.0, clip / norm(gradient)) if clip and norm(gradient) else 1.0
    return {name: values * share for name, values in gradient.items()}


def orthogonal(matrix: Tensor) -> Tensor:
    """Newton-Schulz, in the order of the formula."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    (a, b, c), x = QUINTIC, matrix / matrix.norm().clamp(min=1e-30)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x

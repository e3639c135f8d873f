"""The loss that is written down is the loss that is optimized, and that of a validation is its sum over its count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dstrain.config.arc import PuzzleData
from dstrain.config.schema import Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest, relative
from dstrain.doctor.fresh_engine import validated, with_each_update
from dstrain.doctor.quiet_training import train_quietly
from dstrain.doctor.recipe_subject import fresh_trainee
from dstrain.doctor.reference import loss_by_rows, reference_step
from dstrain.doctor.short_run import short_run
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.train.run_folder import RunFolder, read_lines

CLAIM = "the logged loss is the optimized loss, and a validation's is its sum over its count"
STEPS = 3
BOUND = {"fp32": 1e-5, "bf16": 2e-4}
WHY = {"fp32": "relative: other shapes sum in another order",
       "bf16": "relative: roundings to 8 bits average out over the targets, 4e-6 to 2e-5 was measured"}
OF_BACKWARD = 1e-5
"""the same sums in fp32 or more, whatever the forward pass was rounded to"""
NOTHING, BEST = 0.0, 1.0
"""loss and perplexity of a model that is always right"""


def prove(case: Case) -> Finding:
    """Steps of many small micro-batches with very different numbers of targets: there every wrong mean shows."""
    recipe = replace(in_micro_batches(case.recipe, case.family.anatomy.micro_sizes[0]),
                     optim=replace(case.recipe.optim, clip=0.0))
    valid = _in_batches(replace(recipe, data=case.on_few_documents("logged").data))
    expected, _ = reference_step(recipe)
    expected_valid, batches = validation_loss(valid)
    of_step, of_backward, of_valid, forgotten = [], [], [], []
    for world in case.worlds:
        answers = case.ranks(world).run(losses_of, recipe)
        logged, optimized = answers[0][0], [sum(losses) for losses in zip(*(answer[1] for answer in answers))]
        of_step.append(relative(logged[0], expected))
        of_backward += [relative(loss, used) for loss, used in zip(logged, optimized, strict=True)]
        of_valid.append(relative(case.ranks(world).run(validated, valid)[0]["loss"], expected_valid))
    forgotten += written_of_a_perfect_model(case, valid)
    precision = case.precision
    errors = {"the logged loss is not the sum over all targets divided by their number": largest(of_step),
              "what backward gets is not what is logged": largest(of_backward),
              "a validation's loss is not its sum over its count": largest(of_valid)}
    bounds = (BOUND[precision], OF_BACKWARD, BOUND[precision])
    faults = [f"{fault} ({error:.1e})" for (fault, error), bound in zip(errors.items(), bounds) if not error <= bound]
    faults += forgotten
    return Finding(
        not faults, f"step 1 {errors[next(iter(errors))]:.1e} off a float64 reference, {largest(of_backward):.1e} off "
        f"what {STEPS} steps optimized; validation {largest(of_valid):.1e} off, over {batches} batches; a loss of 0 is "
        f"written as {'it is' if not forgotten else 'something else'}",
        f"{BOUND[precision]:.0e} {WHY[precision]}; {OF_BACKWARD:.0e} off what was optimized", "; ".join(faults),
        "log what is optimized: sums over all micro-batches and ranks, divided once by their count; and ask `is not "
        "None` where 0.0 is a value" if faults else "")


def _in_batches(recipe: Recipe) -> Recipe:
    """A few puzzles would all be one batch: there are several, unequal ones, where two fill a window."""
    if not isinstance(recipe.data, PuzzleData):
        return recipe
    return replace(recipe, batch=replace(recipe.batch, window=2))


def losses_of(ranks: Ranks, recipe: Recipe) -> tuple[list[float], list[float]]:
    """(logged loss of each step, this rank's part of what its backward passes optimized)."""
    optimized = [0.0]
    with _seen_by_backward(optimized, ranks.world), with_each_update(lambda: optimized.append(0.0)):
        trace = short_run(ranks, recipe, None, STEPS)
    return trace.losses, optimized[:STEPS]


def validation_loss(recipe: Recipe) -> tuple[float, int]:
    """(the same in float64, each row alone and its loss from its logits, number of batches)."""
    family = family_of(recipe)
    tokenizer = family.open_tokenizer(recipe, None)
    model = fresh_trainee(recipe, family, tokenizer).double().eval().model
    batches = list(family.valid_batches(recipe, tokenizer, 0, 1))
    with torch.no_grad():
        return float(loss_by_rows(model, batches, recipe, tokenizer)), len(batches)


def written_of_a_perfect_model(case: Case, recipe: Recipe) -> list[str]:
    """What the trainer makes of a validation loss that is exactly 0: `loss or other` would take it for none."""
    folder = case.new_folder("perfect")
    decay_steps = None if recipe.schedule.decay_steps is None else 1
    recipe = replace(recipe, run=replace(recipe.run, name="run", dir=str(folder), steps=2),
                     log=replace(recipe.log, every=1), valid=replace(recipe.valid, every=2, patience=None),
                     schedule=replace(recipe.schedule, warmup_steps=0, decay_steps=decay_steps))
    best = case.ranks(1).run(train_always_right, recipe)[0]
    return wrong_in_records(RunFolder(folder / "run").metrics, best)


def wrong_in_records(metrics: Path, best: float | None) -> list[str]:
    """What is not as it should be after two steps and a validation whose loss is 0."""
    records = read_lines(metrics)
    trained = [record["loss"] for record in records if "split" not in record]
    scores = [(record["loss"], record["perplexity"]) for record in records if "split" in record]
    faults = [] if scores == [(NOTHING, BEST)] else [f"a validation loss of 0 is written as {scores}"]
    faults += [] if best == NOTHING else [f"a validation loss of 0 is remembered as {best}"]
    return faults + ([] if len(trained) == 2 and min(trained) > 0 else [f"the training loss beside it is {trained}"])


def train_always_right(ranks: Ranks, recipe: Recipe) -> float | None:
    """Two steps of the trainer itself, with a model that is always right in evaluation; the best loss that it notes."""
    family = family_of(recipe)

    def build(recipe: Recipe, tokenizer: Any) -> nn.Module:
        trainee = family.build_trainee(recipe, tokenizer)
        trainee.objective = _AlwaysRight(trainee.objective)
        return trainee

    always_right = replace(family, build_trainee=build, generated_scores=None, sample=lambda *_: [])
    return train_quietly(ranks, recipe, always_right).best_loss


class _AlwaysRight:
    """An objective whose sums are 0 in evaluation mode."""

    def __init__(self, inner: Any):
        self._inner = inner

    def sums(self, model: nn.Module, hidden: Any, labels_BT: torch.Tensor, inputs: dict[str, torch.Tensor]) -> Any:
        sums = self._inner.sums(model, hidden, labels_BT, inputs)
        return sums if model.training else sums._replace(nll=torch.zeros_like(sums.nll))


@contextmanager
def _seen_by_backward(optimized: list[float], world: int) -> Iterator[None]:
    """Adds to the last of `optimized` each sum of nll times the gradient that it got: what the step's update follows,
    whatever was multiplied or divided on the way. DeepSpeed averages over ranks."""
    def look(module: nn.Module, _: Any, sums: Any) -> None:
        nll = getattr(sums, "nll", None)
        if nll is not None and nll.requires_grad and "model" in module._modules:  # not the engine around the trainee
            kept = nll.detach()
            nll.register_hook(lambda grad: _add(optimized, float((kept * grad).sum()) / world))

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _add(optimized: list[float], part: float) -> None:
    optimized[-1] += part

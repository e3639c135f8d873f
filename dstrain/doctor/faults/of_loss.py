"""Faults of the loss, the learning rate and the mode: what is optimized, at which rate, and what is written down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dstrain.doctor import short_run
from dstrain.doctor.faults.planting import put
from dstrain.infer import grid_answers, grid_scores, sampling, scores, translate
from dstrain.nn.chance import KeyedDropout
from dstrain.nn.mode import in_eval
from dstrain.objectives.loss_law import loss_law
from dstrain.objectives.trainee import Trainee
from dstrain.runtime.engine import Engine
from dstrain.runtime.schedules import _ByStep
from dstrain.train import evaluate, step, watch
from dstrain.train.metrics import Meter

SMOOTHED, MORE = 0.9, 1.02
WRITING = sampling, translate, scores, grid_answers, grid_scores
"""modules that make a model write"""


def mean_of_means() -> None:
    """Each micro-batch divided by its own count, then averaged over micro-batches and ranks, as frameworks do."""
    _by_its_own_count(lambda parts: parts, logged=False)


def later_micro_batches_count_more() -> None:
    """By 2 %: what a rounded weight does that is wrong in all micro-batches but the first."""
    inner = Engine.backward

    def wrong(self: Engine, loss: torch.Tensor, last: bool) -> None:
        self.seen = getattr(self, "seen", 0) + 1
        inner(self, loss if self.seen == 1 else loss * MORE, last)
        if last:
            self.seen = 0

    put(Engine, "backward", wrong)


def norms_without_gradient() -> None:
    """Their gradient is lost on the way, as where a copy in another precision takes their place."""
    inner = Engine.__init__

    def wrong(self: Engine, build_trainee: Any, *others: Any) -> None:
        def build() -> nn.Module:
            trainee = build_trainee()
            for name, parameter in trainee.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.register_hook(torch.zeros_like)
            return trainee

        inner(self, build, *others)

    put(Engine, "__init__", wrong)


def sum_over_micro_batches() -> None:
    """The same without the average: a forward with **kwargs made the framework believe that the model normalizes."""
    _by_its_own_count(lambda parts: 1, logged=True)


def logged_mean_of_means() -> None:
    """What is optimized is right; what is written down is the average of the micro-batches' means."""
    _by_its_own_count(lambda parts: parts, logged=True, optimized=False)


def logged_smoothed() -> None:
    """The curve is written down with a moving average in it."""
    inner = Meter.flush

    def wrong(self: Meter) -> tuple[list[dict], list[dict]]:
        records, ledger = inner(self)
        for record in records:
            before = getattr(self, "smoothed", record["loss"])
            self.smoothed = record["loss"] = SMOOTHED * before + (1 - SMOOTHED) * record["loss"]
        return records, ledger

    put(Meter, "flush", wrong)


def validation_loss_or_training_loss() -> None:
    """`valid_loss or train_loss`: a validation loss of 0.0 is taken for none."""
    inner = watch.evaluate

    def wrong(*arguments: Any) -> dict | None:
        found = inner(*arguments)
        return found and {**found, "loss": found["loss"] or 10.9}

    put(watch, "evaluate", wrong)


def average_of_batches() -> None:
    """A validation's loss as the average of its batches' losses, however many targets each has."""
    inner = evaluate.evaluate

    def wrong(forward: Any, module: Any, family: Any, recipe: Any, tokenizer: Any, ranks: Any,
              must_leave: Callable[[], bool] = lambda: False) -> dict | None:
        found, objective, losses = inner(forward, module, family, recipe, tokenizer, ranks, must_leave), (
            family.build_objective(recipe)), []
        with in_eval(module), torch.no_grad():
            for batch in family.valid_batches(recipe, tokenizer, 0, 1):
                nll = forward(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=None).nll
                losses.append(float(loss_law(nll, objective.counts(batch), objective.weights)))
        return found and {**found, "loss": sum(losses) / len(losses)}

    for owner in (evaluate, watch):
        put(owner, "evaluate", wrong)


def nan_on_two_ranks() -> None:
    """From step 2 on every loss on 2 ranks is NaN."""
    inner = short_run.train_step

    def wrong(engine: Any, objective: Any, batches: Any, rows_hash: int, number: int, seed: int, ranks: Any) -> Any:
        result = inner(engine, objective, batches, rows_hash, number, seed, ranks)
        return result._replace(nll=result.nll * torch.nan) if ranks.world == 2 and number >= 2 else result

    put(short_run, "train_step", wrong)


def dropout_by_generator() -> None:
    """A generator's state decides what is dropped: another number of ranks, another curve."""
    put(KeyedDropout, "forward", lambda self, x, keys, slots: F.dropout(x, self.rate, self.training))


def last_norm_unused() -> None:
    """A part that the forward pass leaves out gets no gradient, and at ZeRO stage 3 the one of the step before."""
    inner = Trainee.forward

    def wrong(self: Trainee, **tensors: Any) -> Any:
        name = next(name for name in ("decoder_norm", "norm") if hasattr(self.model, name))
        kept = getattr(self.model, name)
        setattr(self.model, name, nn.Identity())
        try:
            return inner(self, **tensors)
        finally:
            setattr(self.model, name, kept)

    put(Trainee, "forward", wrong)


def frozen_on_the_way_to_bf16() -> None:
    """model.to(bf16) by hand: what was made anew on the way is no leaf, and is not trained any more."""
    inner = Trainee.__init__

    def wrong(self: Trainee, model: nn.Module, objective: Any) -> None:
        inner(self, model, objective)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.requires_grad_(False)

    put(Trainee, "__init__", wrong)


def scheduler_never_stepped() -> None:
    """An overriding method forgot it: the loss stands at ln(vocabulary), and the warm-up was blamed."""
    put(_ByStep, "step", lambda self, step=None: None)


def scheduler_one_step_late() -> None:
    inner = _ByStep.__mro__[0]

    def wrong(self: Any, step: int | None = None) -> None:
        super(inner, self).step(None if step is None else max(1, step - 1))

    put(_ByStep, "step", wrong)


def scheduler_stepped_for_each_micro_batch() -> None:
    """With an accumulation of 8 the warm-up is over eight times too early."""
    inner = Engine.backward

    def wrong(self: Engine, loss: torch.Tensor, last: bool) -> None:
        inner(self, loss, last)
        self.micro_batches = getattr(self, "micro_batches", 0) + 1
        self.schedule.step(self.micro_batches)

    put(Engine, "backward", wrong)


def validation_leaves_its_mode() -> None:
    """evaluate() without the way back: the rest of the run has no dropout."""
    put(evaluate, "in_eval", _without_the_way_back)


def generation_leaves_its_mode() -> None:
    for owner in WRITING:
        put(owner, "in_eval", _without_the_way_back)


def mode_lost_by_an_exception() -> None:
    """Restored behind the work, but not in a `finally`."""
    for owner in (evaluate, *WRITING):
        put(owner, "in_eval", _back_without_finally)


def all_modules_set_to_training() -> None:
    """model.train() as the way back: a part that was kept in evaluation mode is not any more."""
    for owner in (evaluate, *WRITING):
        put(owner, "in_eval", _back_by_train)


@contextlib.contextmanager
def _without_the_way_back(module: nn.Module) -> Iterator[None]:
    module.eval()
    yield


@contextlib.contextmanager
def _back_without_finally(module: nn.Module) -> Iterator[None]:
    was_training = {each: each.training for each in module.modules()}
    module.eval()
    yield
    for each, training in was_training.items():
        each.training = training


@contextlib.contextmanager
def _back_by_train(module: nn.Module) -> Iterator[None]:
    module.eval()
    try:
        yield
    finally:
        module.train()


def _by_its_own_count(divisor: Callable[[int], int], logged: bool, optimized: bool = True) -> None:
    """Each micro-batch's loss divided by its own count, and all of them by `divisor`(number of parts)."""
    inner = step.train_step

    def wrong(engine: Any, objective: Any, batches: Any, rows_hash: int, number: int, seed: int, ranks: Any) -> Any:
        counts = iter([objective.counts(batch) for batch in batches])
        parts, means = divisor(len(batches) * ranks.world), []

        def own(nll: torch.Tensor, of_step: torch.Tensor, weights: Any) -> torch.Tensor:
            mean = nll / next(counts).clamp(min=1) / parts
            means.append(mean.detach())
            return sum(weight * each for weight, each in zip(weights, mean)) if optimized else loss_law(
                nll, of_step, weights)

        kept, step.loss_law = step.loss_law, own
        try:
            result = inner(engine, objective, batches, rows_hash, number, seed, ranks)
        finally:
            step.loss_law = kept
        return result._replace(nll=sum(means) * result.totals[:len(objective.terms)]) if logged else result

    put(short_run, "train_step", wrong)

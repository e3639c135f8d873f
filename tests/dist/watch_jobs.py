"""What the tests of watching let ranks do: train with a fault planted, or measure one step."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import torch
from rank_jobs import build

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.feed import TrainFeed
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.doctor.proofs.resume import run_training
from dstrain.families import family_of
from dstrain.models.decoder_lm import DecoderLm
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.norms import Measured
from dstrain.train.progress import Progress
from dstrain.train.step import train_step


class Told(NamedTuple):
    lines: list[str]
    """what the run said on this rank"""
    error: tuple[str, str] | None
    """type and text of what ended it"""


def training(ranks: Ranks, recipe: Recipe, ds_config: str, fault: str = "", at: int = 0) -> Told:
    """A whole run by the trainer, with a fault planted."""
    told = Told([], None)
    with ExitStack() as patches:
        patches.enter_context(patch.object(Progress, "say", lambda self, line: self.shown and told.lines.append(line)))
        if fault:
            patches.enter_context(FAULTS[fault](ranks, at))
        try:
            run_training(ranks, recipe, ds_config)
        except Exception as error:  # is what the test asks for
            return told._replace(error=(type(error).__name__, str(error)))
    return told


def measured_steps(ranks: Ranks, recipe: Recipe, ds_config: str, steps: int) -> list[tuple[dict, float]]:
    """(norms by parameter, gradient norm as recorded) of the first steps, on batches cut to different lengths."""
    engine, family = build(ranks, recipe, ds_config), family_of(recipe)
    objective, seen = family.build_objective(recipe), []
    with closing(family.train_feed(recipe, load_tokenizer(recipe.tokenizer), ranks.rank, ranks.world, None)) as feed:
        for number, step in zip(range(1, steps + 1), feed):
            batches = [family.anatomy.ragged(batch, number) for batch in step.micro_batches]
            with Measured(engine) as measured:
                result = train_step(engine, objective, batches, step.rows_hash, number, recipe.run.seed, ranks)
            seen.append((measured.read(), float(result.grad_norm)))
    engine.close()
    return seen


def _feed_that_fails(error: type[Exception]):
    """On the last rank, the rows of step `at` cannot be read."""
    def plant(ranks: Ranks, at: int):
        inner = TrainFeed.__next__

        def fail(self):
            step = inner(self)
            if step.number == at and ranks.rank == ranks.world - 1:
                raise error("corpus.txt, line 77: no text")
            return step

        return patch.object(TrainFeed, "__next__", fail)
    return plant


def _slow_feed(ranks: Ranks, at: int):
    """On the last rank, each step's rows are `at` milliseconds late."""
    inner = TrainFeed.__next__

    def late(self):
        step = inner(self)
        if ranks.rank == ranks.world - 1:
            time.sleep(at / 1000)
            step = replace(step, wait_s=step.wait_s + at / 1000)
        return step

    return patch.object(TrainFeed, "__next__", late)


def _still_parameter(ranks: Ranks, at: int):
    """The last norm's bias gets the gradient 0, and no weight decay either."""
    inner = DecoderLm.__init__

    def build_still(self, *arguments):
        inner(self, *arguments)
        self.norm.bias.register_hook(torch.zeros_like)

    return patch.object(DecoderLm, "__init__", build_still)


def _nan_loss(ranks: Ranks, at: int):
    """The loss of micro-batch number `at` of this rank's run is NaN."""
    inner, calls = Engine.backward, []

    def poisoned(self, loss, last):
        calls.append(last)
        inner(self, loss * torch.nan if len(calls) == at else loss, last)

    return patch.object(Engine, "backward", poisoned)


def _still_parameter_and_nan_loss(ranks: Ranks, at: int):
    both = ExitStack()
    both.enter_context(_still_parameter(ranks, at))
    both.enter_context(_nan_loss(ranks, at))
    return both


FAULTS = {"bad rows": _feed_that_fails(UserError), "broken feed": _feed_that_fails(ZeroDivisionError),
          "slow feed": _slow_feed,
          "still parameter": _still_parameter, "still parameter, nan": _still_parameter_and_nan_loss}

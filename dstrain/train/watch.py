"""What is looked at while a run goes on: its steps' records, its validation, what it writes by now."""

from __future__ import annotations

from typing import Any

from dstrain.config.errors import UserError
from dstrain.train import announce
from dstrain.train.evaluate import evaluate
from dstrain.train.metrics import Meter
from dstrain.train.run import Run
from dstrain.train.step import StepResult


class Watch:
    """Keeps the steps' results on the device until it is time to write them down."""

    def __init__(self, run: Run):
        self.run = run
        self.flops_a_target = run.family.flops_a_target(run.recipe, run.engine.parameters)
        self.meter = Meter(run.objective, run.ranks, run.state.tokens)

    def add(self, batch: Any, result: StepResult) -> None:
        """Note a step; nothing is read from the device."""
        self.meter.add(batch.number, result, batch.wait_s)

    def log(self, batch: Any) -> None:
        """Write the steps since the last time, and show the newest."""
        newest = self.write_pending(batch)
        if newest is not None:
            self.run.progress.step(newest)

    def validate(self) -> bool:
        """Score the validation data, and show what the model writes by now. True if it is the best so far."""
        run = self.run
        self.write_pending()
        scores = evaluate(run.engine, run.engine.trainee, run.family, run.recipe, run.tokenizer, run.ranks)
        is_best = run.state.scored(scores["loss"])
        run.sinks.write_scores(run.state.step, "valid", scores)
        run.progress.scores(run.state.step, scores, is_best)
        if run.ranks.first and run.engine.holds_whole_model and run.recipe.log.samples:
            self.write_samples()
        self.restart_clock()
        return is_best

    def write_samples(self) -> None:
        run = self.run
        try:
            texts = run.family.sample(run.engine.model, run.tokenizer, run.recipe)
        except UserError as mistake:  # such as a prompt that is too long: no reason to lose the run
            run.progress.say(f"no samples: {mistake}")
            return
        for number, text in enumerate(texts, start=1):
            run.sinks.write_text(f"samples/{number}", text, run.state.step)

    def write_pending(self, batch: Any = None) -> dict | None:
        """Write the steps that are still on the device, so that files and checkpoint agree; the newest record."""
        run = self.run
        records, ledger = self.meter.flush()
        if not records:
            return None
        run.state.tokens = self.meter.tokens
        gauges = {} if batch is None else announce.gauges(
            batch, records[-1]["tokens_per_s"], self.flops_a_target, run.peak, run.ranks)
        run.sinks.write_steps(records, ledger, gauges)
        return records[-1]

    def restart_clock(self) -> None:
        """Do not count what happened since the last log (a validation, a save) as training time."""
        self.meter.restart_clock()

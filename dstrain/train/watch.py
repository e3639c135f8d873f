"""What is looked at while a run goes on: its steps' records and norms, its validation, what it writes by now."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, ContextManager

from dstrain.config.errors import UserError
from dstrain.nn.adapters import is_adapter
from dstrain.runtime.generating import all_ranks_generate
from dstrain.runtime.norms import Measured
from dstrain.runtime.pace import Pace
from dstrain.train.evaluate import evaluate
from dstrain.train.gauges import WAIT_SHARE, Gauges
from dstrain.train.metrics import Meter
from dstrain.train.movement import Movement
from dstrain.train.run import Run
from dstrain.train.shown import Shown
from dstrain.train.step import StepResult


PICTURE_EVERY = 100
"""steps"""


class Watch:
    """Keeps the steps' results on the device until it is time to write them down."""

    def __init__(self, run: Run):
        self.run = run
        self.meter = Meter(run.objective, run.ranks, run.state.tokens)
        self.gauges = Gauges(run)
        self.movement = Movement()
        self.pace = Pace(run.engine, run.ranks)
        self._measured: Measured | None = None

    def measuring(self, step: int) -> ContextManager:
        """Around a step: measures norms in it, if it is time to."""
        every = self.run.recipe.log.norms_every
        due = every and (step == 1 or step % every == 0)
        self._measured = Measured(self.run.engine) if due else None
        return self._measured or contextlib.nullcontext()

    def add(self, batch: Any, result: StepResult) -> None:
        """Note a step; only its norms, at their times, are read from the device at once."""
        self.meter.add(batch.number, result, batch.wait_s)
        self.gauges.add(batch)
        for line in self.pace.stepped(batch.wait_s):
            self.run.progress.say(line)
        if self._measured is not None and result.applied:
            norms = self._measured.read()
            self.run.sinks.write_scalars(self.movement.scalars(norms), batch.number)
            # At the first step an adapter's first matrix has no gradient: its second one is zero.
            rests = self.run.objective.rests(batch.number) or (batch.number == 1 and any(map(is_adapter, norms)))
            for line in self.movement.news(batch.number, norms, max(result.lrs.values()), rests):
                self.run.progress.say(line)

    def log(self) -> None:
        """Write the steps since the last time, and show the newest."""
        records, gauges = self.write_pending()
        if records:
            self.run.progress.step(records[-1], gauges[WAIT_SHARE])

    def validate(self, must_leave: Callable[[], bool]) -> bool:
        """Score the validation data, and show what the model writes by now. True if it is the best so far.

        When a rank must leave, all break off: then the run still owes the validation.
        """
        run = self.run
        self.write_pending()
        # Every rank has the same sums; they go by the first one's, so that no rounding can part them.
        scores = run.ranks.share(
            evaluate(run.engine, run.engine.trainee, run.family, run.recipe, run.tokenizer, run.ranks, must_leave))
        generated = None if scores is None else self.score_generated(must_leave)
        if scores is None or generated is None:
            return False
        scores |= generated
        is_best = run.state.scored(scores["loss"])
        run.state.owes_validation = False
        run.sinks.write_scores(run.state.step, "valid", scores)
        run.progress.scores(run.state.step, scores, is_best)
        if run.recipe.log.samples:
            self.write_samples()
        self.restart_clock()
        return is_best

    def score_generated(self, must_leave: Callable[[], bool]) -> dict | None:
        """Of what the model writes for the validation data: nothing where its family has no such scores; None when a
        rank must leave."""
        run, alone = self.run, self.run.engine.holds_whole_model
        if run.family.generated_scores is None:
            return {}
        run.ranks.pulse.takes_long("generating")
        with contextlib.nullcontext() if alone else all_ranks_generate(run.engine):
            return run.ranks.share(run.family.generated_scores(run.engine.model, run.tokenizer, run.recipe, run.ranks,
                                                               alone, must_leave))

    def write_samples(self) -> None:
        """By the first rank alone where it has the whole model, else by all ranks together."""
        run, alone = self.run, self.run.engine.holds_whole_model
        if alone and not run.ranks.first:
            return
        run.ranks.pulse.takes_long("samples")
        try:
            with contextlib.nullcontext() if alone else all_ranks_generate(run.engine):
                texts = run.family.sample(run.engine.model, run.tokenizer, run.recipe)
                pictures = {} if run.family.pictures is None else run.family.pictures(run.engine.model, run.tokenizer,
                                                                                      run.recipe)
        except UserError as mistake:  # such as a prompt that is too long: no reason to lose the run
            run.progress.say(f"no samples: {mistake}")
            return
        for number, text in enumerate(texts, start=1):
            run.sinks.write_text(f"samples/{number}", text, run.state.step)
        run.sinks.write_shown(Shown({}, {}, pictures), run.state.step, with_pictures=True)

    def write_pending(self) -> tuple[list[dict], dict[str, float]]:
        """Write the steps that are still on the device, so that files and checkpoint agree: their records, gauges."""
        records, ledger = self.meter.flush()
        if not records:
            return [], {}
        self.run.state.tokens = self.meter.tokens
        self._show_model(records)
        gauges = self.gauges.read(records[-1]["tokens_per_s"], self.meter.window_s) | self.pace.slowest
        self.run.sinks.write_steps(records, ledger, gauges)
        return records, gauges

    def _show_model(self, records: list[dict]) -> None:
        """What the family has to show of these steps; its pictures in every hundredth step, or at the next log."""
        run, first, last = self.run, records[0]["step"], records[-1]["step"]
        if run.family.shown is None or self.meter.seen is None or not run.ranks.first:
            return
        shown = run.family.shown(run.recipe, run.engine.model, self.meter.counts, self.meter.seen)
        due = first == 1 or last == run.recipe.run.steps or (first - 1) // PICTURE_EVERY < last // PICTURE_EVERY
        run.sinks.write_shown(shown, last, with_pictures=due)

    def restart_clock(self) -> None:
        """Do not count what happened since the last log (a validation, a save) as training time."""
        self.meter.restart_clock()

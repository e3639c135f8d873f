"""The trainer's loop: the same for every model family, and readable from top to bottom."""

from __future__ import annotations

from itertools import chain
from typing import Any, Callable

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.runtime import checkpoint
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.peak import peak_flops
from dstrain.train import announce
from dstrain.train.evaluate import NOTHING_TO_SCORE, evaluate
from dstrain.train.family import Family
from dstrain.train.metrics import Meter
from dstrain.train.progress import Progress
from dstrain.train.run_folder import RunFolder
from dstrain.train.sinks import NoSinks, Sinks
from dstrain.train.start import build_engine, newest_checkpoint, open_folder
from dstrain.train.state import RunState, recipe_text, write_side_files
from dstrain.train.step import train_step

LoadTokenizer = Callable[..., Any]


def train(recipe: Recipe, family: Family, config: dict, load_tokenizer: LoadTokenizer, ranks: Ranks) -> RunState:
    """Train to the recipe's last step, from the newest good checkpoint of its run folder if there is one."""
    folder, progress = RunFolder.of(recipe), Progress(recipe.run.steps, shown=ranks.first)
    loaded, changes = newest_checkpoint(folder, recipe, ranks, progress)
    state = RunState.begin() if loaded is None else RunState.from_json(loaded.state)
    if any(change.startswith(("data.valid", "objective")) for change in changes):
        state.forget_best()
    if state.step >= recipe.run.steps:
        progress.say(f"finished already: {folder.path} stands at step {state.step} of {recipe.run.steps}; "
                     "more steps with run.steps=..., start over with --fresh")
        return state
    if loaded is not None:
        progress.say("\n".join([f"goes on from {loaded.folder}",
                                *(f"  changed since then: {change}" for change in changes)]))

    with ranks.together("opening tokenizer and data"):
        tokenizer = load_tokenizer(recipe.tokenizer, folder=None if loaded is None else loaded.folder / "tokenizer")
        has_valid = recipe.data.valid and next(
            family.valid_batches(recipe, tokenizer, ranks.rank, ranks.world, 1), None) is not None
        feed = family.train_feed(recipe, tokenizer, ranks.rank, ranks.world, state.place,
                                 pin=ranks.device.type == "cuda")
    try:
        if recipe.data.valid and not any(ranks.gather(has_valid)):  # better now than at the first validation
            raise ranks.mistake(NOTHING_TO_SCORE)
        with ranks.together("reading the first step's rows"):
            first = next(feed)  # faults of the data show before the engine is built
        engine = build_engine(recipe, family, config, tokenizer, loaded, ranks)
        sinks = open_folder(folder, recipe, config, state.step, progress, ranks)
        announce.say_run(progress.say, recipe, family, tokenizer, engine, first, folder, state, ranks)
        run = _Run(recipe, family, tokenizer, engine, peak_flops(ranks.device, config), folder, sinks, state,
                   progress, ranks)
        try:
            run.loop(chain([first], feed))
        finally:
            sinks.close()
            engine.close()
        return state
    finally:
        feed.close()


class _Run:
    """What the loop needs at hand."""

    def __init__(self, recipe: Recipe, family: Family, tokenizer: Any, engine: Engine, peak: float | None,
                 folder: RunFolder, sinks: Sinks | NoSinks, state: RunState, progress: Progress, ranks: Ranks):
        self.recipe, self.family, self.tokenizer, self.engine, self.folder = recipe, family, tokenizer, engine, folder
        self.sinks, self.state, self.progress, self.ranks = sinks, state, progress, ranks
        self.objective = family.build_objective(recipe)
        self.peak, self.flops_a_target = peak, family.flops_a_target(recipe, engine.parameters)
        self.meter = Meter(self.objective, ranks, state.tokens)

    def loop(self, steps: Any) -> None:
        """Step, and at their times: log, validate, save."""
        recipe, state = self.recipe, self.state
        self.sinks.write_text("recipe", recipe_text(recipe), state.step)
        self.meter.restart_clock()
        for batch in steps:
            result = train_step(self.engine, self.objective, batch.micro_batches, batch.rows_hash, batch.number,
                                recipe.run.seed, self.ranks)
            state.trained(batch.number, batch.place, result.applied)
            self.meter.add(batch.number, result, batch.wait_s)
            last = state.step == recipe.run.steps

            if last or state.step % recipe.log.every == 0 or state.skipped_in_a_row >= recipe.run.max_skipped:
                self.log(batch)
            if state.skipped_in_a_row >= recipe.run.max_skipped:
                raise self.ranks.mistake(_gives_up(state))
            is_best = False
            if recipe.data.valid and (last or state.step % recipe.valid.every == 0):
                is_best = self.validate()
            if last or is_best or state.step % recipe.checkpoint.every == 0:
                self.save()
            if last:
                break
        self.progress.finish(self.state, self.folder)

    def log(self, batch: Any) -> None:
        """Write the steps since the last time, and show the newest."""
        newest = self.log_pending(batch)
        if newest is not None:
            self.progress.step(newest)

    def validate(self) -> bool:
        """Score the validation data, and show what the model writes by now. True if it is the best so far."""
        self.log_pending()
        scores = evaluate(self.engine, self.engine.trainee, self.family, self.recipe, self.tokenizer, self.ranks)
        is_best = self.state.scored(scores["loss"])
        self.sinks.write_scores(self.state.step, "valid", scores)
        self.progress.scores(self.state.step, scores, is_best)
        if self.ranks.first and self.engine.holds_whole_model and self.recipe.log.samples:
            self.write_samples()
        self.meter.restart_clock()
        return is_best

    def write_samples(self) -> None:
        try:
            texts = self.family.sample(self.engine.model, self.tokenizer, self.recipe)
        except UserError as mistake:  # such as a prompt that is too long: no reason to lose the run
            self.progress.say(f"no samples: {mistake}")
            return
        for number, text in enumerate(texts, start=1):
            self.sinks.write_text(f"samples/{number}", text, self.state.step)

    def save(self) -> None:
        """Commit a checkpoint; the side files are on the disk before it is."""
        self.log_pending()
        self.sinks.sync()
        self.state.place = self.family.merge_places(self.ranks.gather(self.state.place))
        saved = checkpoint.save(self.folder.checkpoints, self.engine, self.state.to_json(),
                                lambda where: write_side_files(where, self.recipe, self.tokenizer), self.ranks)
        with self.ranks.together(f"tidying {self.folder.checkpoints}"):
            if self.ranks.first:
                if self.state.best_step == self.state.step:
                    checkpoint.point(self.folder.checkpoints, "best", saved.name)
                checkpoint.prune(self.folder.checkpoints, self.recipe.checkpoint.keep, self.progress.say)
        self.progress.say(f"saved {saved}")
        self.meter.restart_clock()

    def log_pending(self, batch: Any = None) -> dict | None:
        """Write the steps that are still on the device, so that files and checkpoint agree; the newest record."""
        records, ledger = self.meter.flush()
        if not records:
            return None
        self.state.tokens = self.meter.tokens
        gauges = {} if batch is None else announce.gauges(
            batch, records[-1]["tokens_per_s"], self.flops_a_target, self.peak, self.ranks)
        self.sinks.write_steps(records, ledger, gauges)
        return records[-1]


def _gives_up(state: RunState) -> str:
    return (f"step {state.step}: the last {state.skipped_in_a_row} steps were all skipped because of NaN or Inf "
            "in the gradients; nothing was learned in them. Look at train/loss before, try a smaller optim.lr "
            "or a longer schedule.warmup_steps (or allow more with run.max_skipped)")

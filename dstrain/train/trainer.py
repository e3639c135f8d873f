"""The trainer: start or go on, then the loop, the same for every model family and readable from top to bottom."""

from __future__ import annotations

from typing import Any, Iterator

from dstrain.config.schema import Recipe
from dstrain.guard.bell import Bell
from dstrain.runtime.checkpoint.saver import Saver
from dstrain.runtime.dist import Ranks
from dstrain.train.announce import about, say_run
from dstrain.train.family import Family
from dstrain.train.keep import heed, leave, must_leave, save, wishes
from dstrain.train.progress import Progress
from dstrain.train.rows import ask_why, rows_of_steps
from dstrain.train.run import Run
from dstrain.train.run_folder import Footing, RunFolder
from dstrain.train.start import (
    build_engine, check_valid, fence_of, newest_checkpoint, open_feed, open_folder, open_tokenizer, set_back_to,
    state_of, why_finished)
from dstrain.train.state import RunState, recipe_text
from dstrain.train.step import train_step
from dstrain.train.watch import Watch


def train(recipe: Recipe, family: Family, config: dict, ranks: Ranks, bell: Bell | None = None,
          footing: Footing | None = None) -> RunState:
    """Train to the recipe's end, from the newest good checkpoint of its run folder if there is one.

    `footing`: what the first rank has in a folder that it has locked.
    """
    bell = bell or Bell()
    folder, progress = RunFolder.of(recipe), Progress(recipe.run.steps, shown=ranks.first)
    loaded, recipe, changes = newest_checkpoint(folder, recipe, family, config, ranks, progress)
    state = state_of(loaded, recipe, changes)
    ranks.pulse.step = state.step
    finished = why_finished(recipe, state, folder)
    if finished is not None:
        set_back_to(loaded, progress, ranks, footing)
        progress.say(finished)
        return state
    if loaded is not None:
        progress.say("\n".join([f"goes on from {loaded.folder}",
                                *(f"  changed since then: {change}" for change in changes)]))

    tokenizer = open_tokenizer(recipe, family, loaded, folder, progress, ranks)
    feed = open_feed(recipe, family, tokenizer, state, ranks)
    try:
        check_valid(recipe, family, tokenizer, ranks)  # better now than at the first validation
        with ranks.together("reading the first step's rows"):
            first = next(feed)  # faults of the data show before the engine is built
        bell.leave_if_rung(ranks)
        ranks.pulse.about("building the engine")
        engine = build_engine(recipe, family, config, tokenizer, loaded, progress, ranks)
        bell.leave_if_rung(ranks)
        sinks = open_folder(folder, recipe, config, loaded, progress, ranks, footing)
        saver = Saver(folder.checkpoints, engine, ranks, recipe.checkpoint.keep, recipe.checkpoint.background,
                      about(recipe, config, ranks), progress.say, fence_of(footing))
        try:
            run = Run(recipe, family, family.build_objective(recipe), tokenizer, engine, config, folder, sinks, state,
                      progress, ranks, saver, bell)
            say_run(run, first)
            bell.leave_if_rung(ranks)
            bell.trains()
            loop(run, first, feed)
        finally:
            saver.close()
            sinks.close()
            engine.close()
        return state
    finally:
        feed.close()


def loop(run: Run, first: Any, feed: Iterator[Any]) -> None:
    """Step, and at their times: log, validate, save, leave."""
    recipe, state, watch = run.recipe, run.state, Watch(run)
    run.sinks.write_text("recipe", recipe_text(recipe), state.step)
    ended = state.owes_validation and settle(run, watch, leaves=False)
    watch.restart_clock()
    for batch, error in () if ended else rows_of_steps(first, feed, run):
        with watch.measuring(batch.number):
            result = train_step(run.engine, run.objective, batch.micro_batches, batch.rows_hash, batch.number,
                                recipe.run.seed, run.ranks, wishes(run), spoiled=error is not None)
        if not result.applied:
            ask_why(error, run)
        state.trained(batch.number, batch.place, result.applied)
        run.ranks.pulse.stepped(state.step)
        watch.add(batch, result)
        heed(run, result.wishes)

        gives_up = state.skipped_in_a_row >= recipe.run.max_skipped
        if gives_up or state.step == recipe.run.steps or state.step % recipe.log.every == 0:
            watch.log()
        if gives_up:
            run.ranks.pulse.ended("NaN", _too_many_skipped(state))
            raise run.ranks.mistake(_too_many_skipped(state))
        state.owes_validation = state.validates_now(recipe)
        if settle(run, watch, leaves=result.wishes.leave > 0):
            break
    run.progress.finish(state, run.folder, state.out_of_patience(recipe))


def settle(run: Run, watch: Watch, leaves: bool) -> bool:
    """After a step: the validation that is owed, the save that is due. Says whether the run is at its end."""
    recipe, state = run.recipe, run.state
    is_best = state.owes_validation and not leaves and watch.validate(lambda: must_leave(run))
    leaves = leaves or state.owes_validation  # it was asked to leave before its validation was through
    ended = not leaves and (state.step == recipe.run.steps or state.out_of_patience(recipe))
    if ended or leaves or is_best or state.step % recipe.checkpoint.every == 0:
        watch.write_pending()
        save(run)
        watch.restart_clock()
    if leaves:
        leave(run)
    if ended:
        run.saver.finish()
    return ended


def _too_many_skipped(state: RunState) -> str:
    return (f"step {state.step}: the last {state.skipped_in_a_row} steps were all skipped because of NaN or Inf "
            "in the gradients; nothing was learned in them. Look at train/loss before, try a smaller optim.lr "
            "or a longer schedule.warmup_steps (or allow more with run.max_skipped)")

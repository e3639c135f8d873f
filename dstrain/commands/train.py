"""`dstrain train`: one process, or one of many ranks started by deepspeed, torchrun or srun."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from typing import Callable, Iterator

from dstrain.config.arc import PuzzleData
from dstrain.config.engine_json import engine_json
from dstrain.config.environment import take_environment
from dstrain.config.errors import LostRank, SaidElsewhere, UserError
from dstrain.config.load import load_recipe
from dstrain.config.os_errors import in_words
from dstrain.config.schema import Data, Recipe
from dstrain.data.grids.sources import open_puzzles
from dstrain.data.preparing.prepared import as_prepared, sources_of
from dstrain.data.reading.pair_sources import open_corpus
from dstrain.guard import blackbox
from dstrain.guard.bell import Bell
from dstrain.guard.causes import saying_why
from dstrain.guard.patience import meeting_others
from dstrain.guard.postmortem import note_ending
from dstrain.guard.watched import watched
from dstrain.train.run_folder import Footing, RunFolder


def train_command(name: str, overrides: list[str], ds_config: str | None, fresh: bool, yes: bool,
                  bell: Bell) -> None:
    try:
        recipe = load_recipe(name, overrides, ds_config)
        _take_environment(recipe)
        bell.limit(recipe.run.max_minutes)
        folder = RunFolder.of(recipe)
        _check_what_needs_no_torch(recipe, ds_config)
        if fresh:
            _may_start_over(folder, yes)
    except UserError as mistake:  # every rank makes it; the first of each machine says it
        raise mistake if os.environ.get("LOCAL_RANK", "0") == "0" else SaidElsewhere(str(mistake)) from None

    from dstrain.families import family_of  # after the recipe is known to be good: torch takes its time
    from dstrain.runtime.dist import lost_a_rank, start_ranks, stop_ranks
    from dstrain.runtime.health import check_health
    from dstrain.train.trainer import train

    bell.meets()
    lock = None
    with _lost_ranks_named(lost_a_rank, bell):
        try:
            with meeting_others():
                ranks = start_ranks()
            bell.joined()
            bell.leave_if_rung(ranks)
            with ranks.together("reading the DeepSpeed settings"):
                config = engine_json(recipe, ranks.world, ranks.device.type, ds_config)
            if ds_config is not None and ranks.first:
                print(f"--deepspeed_config {ds_config} is used in place of the recipe's engine.config")
            ranks = replace(ranks, health=check_health(ranks, folder.path, print))
            with ranks.together(f"opening {folder.path}"):
                lock = folder.lock(_say_on_stderr) if ranks.first else None
                footing = Footing(folder, lock) if lock is not None else None
            if lock is not None and lock.warning is not None:
                _say_on_stderr(lock.warning)
            attempt = ranks.share(lock and lock.attempt)
            # Nobody looks into the folder before it is cleared.
            with ranks.together(f"clearing {folder.path}"), in_words("prepare", folder.path):
                if ranks.first:
                    folder.clear() if fresh else note_ending(folder.path)
                    blackbox.clear(folder.path)
            with ranks.together(f"opening the black box of {folder.path}"):
                pulse = watched(folder.path, ranks.rank, ranks.world, attempt)
            bell.told = lambda reason: blackbox.note_request(folder.path, ranks.rank, reason)
            bell.last_words = lambda words: pulse.ended("left", words)
            ranks = replace(ranks, pulse=pulse)
            with saying_why(pulse), _lost_ranks_named(lost_a_rank, bell):
                train(recipe, family_of(recipe), config, ranks, bell, footing)
        finally:
            stop_ranks()
            if lock is not None:
                lock.close()


def _say_on_stderr(line: str) -> None:
    print(f"dstrain: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _lost_ranks_named(lost_a_rank: Callable[[RuntimeError], bool], bell: Bell) -> Iterator[None]:
    """A collective that failed because a rank is gone says so."""
    try:
        yield
    except RuntimeError as error:
        if not lost_a_rank(error):
            raise
        bell.leave_start_up()
        raise LostRank("another rank is gone (killed, out of memory, its machine, or the mistake that it "
                       "printed): this one ends, too; the same command goes on from the last checkpoint, or else from "
                       "the start") from None


def _take_environment(recipe: Recipe) -> None:
    """Before torch is imported, which looks at some of it once."""
    different = take_environment(recipe.environment, os.environ)
    if different is not None and os.environ.get("RANK", "0") == "0":
        print(f"dstrain: {different}", file=sys.stderr)


def _check_what_needs_no_torch(recipe: Recipe, ds_config: str | None) -> None:
    """The commonest mistakes, before torch and DeepSpeed take their seconds to load."""
    engine_json(recipe, int(os.environ.get("WORLD_SIZE", 1)), "cuda", ds_config)  # fp16 on a CPU is refused later
    for split, sources in (("train", recipe.data.train), ("valid", recipe.data.valid)):
        if isinstance(recipe.data, PuzzleData):
            open_puzzles(recipe.data, split)
            continue
        if isinstance(recipe.data, Data) and recipe.data.prepared is not None:
            sources_of(as_prepared(recipe), split)
            continue
        for number, source in enumerate(sources):
            if source.hub is None:  # the hub is asked once, by one rank, when it is known what a checkpoint has pinned
                open_corpus(source, number, split, getattr(recipe.data, "languages", None))


def _may_start_over(folder: RunFolder, yes: bool) -> None:
    """Losing a run takes a yes: typed, or given beforehand."""
    if yes or not folder.has_training():
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or not sys.stdin.isatty():
        raise UserError(f"--fresh would remove what {folder.path} has of this run, and nobody can be asked here: "
                        "add --yes")
    if input(f"--fresh removes the checkpoints and records in {folder.path}. Type yes to go on: ").strip() != "yes":
        raise UserError(f"nothing was removed from {folder.path}; without --fresh the run goes on where it stopped")

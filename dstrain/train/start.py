"""How a run starts or goes on: the newest good checkpoint, the engine, the run folder."""

from __future__ import annotations

from typing import Any, Callable

from dstrain.config.errors import UserError
from dstrain.config.load import load_saved_recipe
from dstrain.config.schema import Recipe
from dstrain.runtime import checkpoint
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train import announce
from dstrain.train.continuity import changes_since
from dstrain.train.family import Family
from dstrain.train.progress import Progress
from dstrain.train.run_folder import RunFolder
from dstrain.train.sinks import NoSinks, Sinks


def newest_checkpoint(folder: RunFolder, recipe: Recipe, ranks: Ranks,
                       progress: Progress) -> tuple[checkpoint.Loaded | None, list[str]]:
    """The newest good checkpoint, and what is different in the recipe since then."""
    found = checkpoint.newest_good(folder.checkpoints, ranks, progress.say)
    with ranks.together("going on from a checkpoint"):
        if found is None and checkpoint.committed(folder.checkpoints):
            raise UserError(f"{folder.checkpoints}: no checkpoint there is whole, so nothing can be continued; "
                            "restore one, or start over with --fresh")
        if found is None:
            return None, []
        changes = changes_since(load_saved_recipe(found / "recipe.yaml"), recipe, str(found))
        loaded = checkpoint.load(found)
        if ranks.first:
            checkpoint.go_on_from(found, loaded.state["best_step"], progress.say)
    return loaded, changes


def build_engine(recipe: Recipe, family: Family, config: dict, tokenizer: Any, loaded: checkpoint.Loaded | None,
                 ranks: Ranks) -> Engine:
    """The engine at its initial weights, or with all that the checkpoint holds."""
    def fresh(trainee: Any) -> Callable:
        return lambda name, shape: family.initial_weight(trainee.model, name, shape, recipe.run.seed)

    try:
        engine = Engine(lambda: family.build_trainee(recipe, tokenizer),
                        fresh if loaded is None else lambda trainee: loaded.weight_of, recipe, config, ranks)
        if loaded is not None:
            loaded.restore(engine)
    except UserError as mistake:  # a checkpoint of another model: all ranks see it alike
        raise ranks.mistake(str(mistake)) from None
    return engine


def open_folder(folder: RunFolder, recipe: Recipe, config: dict, start: int, progress: Progress,
                ranks: Ranks) -> Sinks | NoSinks:
    """Write what runs, resolved, before the first step; on going on, cut the side files to the checkpoint's step."""
    sinks: Sinks | NoSinks = NoSinks()
    with ranks.together(f"preparing {folder.path}"):
        if ranks.first:
            try:
                folder.make()
                announce.freeze(folder, recipe, config, ranks)
                dropped = folder.cut_to(start)
                sinks = Sinks(folder, start)
            except OSError as error:
                raise UserError(f"run folder {folder.path}: {error.strerror}; make room or choose another place with "
                                "run.dir=...") from error
            if dropped:
                progress.say(f"{dropped} recorded steps after step {start} are dropped: no checkpoint holds them")
    return sinks

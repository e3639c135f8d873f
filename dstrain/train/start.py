"""How a run starts or goes on: the newest good checkpoint, tokenizer and data, the engine, the run folder."""

from __future__ import annotations

import shutil
from typing import Any, Callable

import torch

from dstrain.config.errors import UserError
from dstrain.config.load import load_saved_recipe
from dstrain.config.model_code import code_changes
from dstrain.config.os_errors import in_words
from dstrain.config.schema import Recipe
from dstrain.runtime.checkpoint.fence import Fence
from dstrain.runtime.checkpoint.folder import bring_back, committed, go_on_from, newest_good
from dstrain.runtime.checkpoint.loading import Loaded, load
from dstrain.runtime.checkpoint.restored import check_restored
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train import announce
from dstrain.train.continuity import changes_since, shape_change
from dstrain.train.evaluate import NOTHING_TO_SCORE
from dstrain.train.family import Family
from dstrain.train.progress import Progress
from dstrain.train.run_folder import Footing, RunFolder
from dstrain.train.sinks import NoSinks, Sinks
from dstrain.train.state import RunState


def newest_checkpoint(folder: RunFolder, recipe: Recipe, family: Family, config: dict, ranks: Ranks,
                      progress: Progress) -> tuple[Loaded | None, Recipe, list[str]]:
    """The newest good checkpoint, the recipe with its data pinned, and what is different in it since then."""
    found = newest_good(folder.checkpoints, ranks, progress.say)
    with ranks.together("going on from a checkpoint"):
        if found is None and committed(folder.checkpoints):
            raise UserError(f"{folder.checkpoints}: no checkpoint there is whole, so nothing can be continued; "
                            "restore one, or start over with --fresh")
        saved = None if found is None else load_saved_recipe(found / "recipe.yaml")
    with ranks.together("looking up the data's revision"):  # by one rank: all must mean the same
        pinned = family.pinned(recipe, saved) if ranks.first else None
    recipe = ranks.share(pinned)
    if found is None:
        return None, recipe, []
    with ranks.together("going on from a checkpoint"):
        changes, loaded = changes_since(saved, recipe, str(found)), load(found)
        RunState.from_json(loaded.state, found / "state.json")  # what is not one is refused here, by all ranks alike
        now = announce.about(recipe, config, ranks)["shape"]
        anew = ["validations are scored otherwise from here on: the best so far is forgotten"]
        return loaded, recipe, [*shape_change(loaded.shape, now), *changes, *code_changes(recipe, found),
                                *(anew if _scored_otherwise(changes) else [])]


def state_of(loaded: Loaded | None, recipe: Recipe, changes: list[str]) -> RunState:
    """Where the run stands, given what is different in the recipe since its checkpoint."""
    state = RunState.begin() if loaded is None else RunState.from_json(loaded.state)
    if _scored_otherwise(changes):
        state.forget_best()
    state.owes_validation &= bool(recipe.data.valid)
    return state


def _scored_otherwise(changes: list[str]) -> bool:
    """When heads begin matters to the training alone: a validation has the weights of the run's last step."""
    return any(change.startswith(("data.valid", "objective")) and not change.startswith("objective.begins")
               for change in changes)


def why_finished(recipe: Recipe, state: RunState, folder: RunFolder) -> str | None:
    """Why there is nothing left to train, and what would change that; None where there is something."""
    if state.owes_validation:
        return None
    if state.step >= recipe.run.steps:
        return (f"finished already: {folder.path} stands at step {state.step} of {recipe.run.steps}; "
                "more steps with run.steps=..., start over with --fresh")
    if state.out_of_patience(recipe):
        return (f"finished already: {folder.path} {state.why_early()}; go on with a larger valid.patience=..., or with "
                "valid.patience=null, start over with --fresh")
    return None


def open_tokenizer(recipe: Recipe, family: Family, loaded: Loaded | None, folder: RunFolder,
                   progress: Progress, ranks: Ranks) -> Any:
    """The checkpoint's; of a new run what the first rank fetches or learns, and keeps in the run folder for all."""
    kept = folder.tokenizer if loaded is None else loaded.folder / "tokenizer"
    if loaded is None:
        with ranks.together("making the tokenizer"):
            if ranks.first:
                _keep(family.open_tokenizer(recipe, None, progress.say), folder)
    with ranks.together("opening the tokenizer"):
        return family.open_tokenizer(recipe, kept, progress.say)


def open_feed(recipe: Recipe, family: Family, tokenizer: Any, state: RunState, ranks: Ranks) -> Any:
    """This rank's steps from where the run stands; close it when done."""
    with ranks.together("opening the data"):
        return family.train_feed(recipe, tokenizer, ranks.rank, ranks.world, state.place,
                                 pin=ranks.device.type == "cuda")


def check_valid(recipe: Recipe, family: Family, tokenizer: Any, ranks: Ranks) -> None:
    """Validation data must hold something to score, on one rank at least."""
    if not recipe.data.valid:
        return
    with ranks.together("opening the validation data"):
        some = next(family.valid_batches(recipe, tokenizer, ranks.rank, ranks.world), None) is not None
    if not any(ranks.gather(some)):
        raise ranks.mistake(NOTHING_TO_SCORE)


def build_engine(recipe: Recipe, family: Family, config: dict, tokenizer: Any, loaded: Loaded | None,
                 progress: Progress, ranks: Ranks) -> Engine:
    """The engine at its initial weights, or with all that the checkpoint holds, compared with it bit by bit.

    Up to here nothing has changed in a run folder that holds a checkpoint: what cannot go on leaves it as it was.
    """
    def fresh(trainee: Any) -> Callable:
        def weight(name: str, shape: torch.Size) -> torch.Tensor:
            taken = None if take_over is None else take_over(name, shape)
            return family.initial_weight(trainee.model, name, shape, recipe.run.seed) if taken is None else taken
        return weight

    take_over = None
    if loaded is None and family.taken_over is not None:
        with ranks.together("reading the model that this run starts from"):
            take_over = family.taken_over(recipe, tokenizer, progress.say)
    if loaded is not None:
        with ranks.together("going on from a checkpoint"), torch.device("meta"):
            loaded.check_fits(family.build_trainee(recipe, tokenizer), recipe.optim)
    engine = Engine(lambda: family.build_trainee(recipe, tokenizer),
                    fresh if loaded is None else lambda trainee: loaded.weight_of, recipe, config, ranks)
    if loaded is not None:
        loaded.restore(engine)
        progress.say(check_restored(loaded, engine, recipe))
    return engine


def open_folder(folder: RunFolder, recipe: Recipe, config: dict, loaded: Loaded | None, progress: Progress,
                ranks: Ranks, footing: Footing | None = None) -> Sinks | NoSinks:
    """Write what runs, resolved, before the first step; on going on, bring the folder back to the checkpoint's step."""
    start = 0 if loaded is None else loaded.state["step"]
    set_back_to(loaded, progress, ranks, footing)
    sinks: Sinks | NoSinks = NoSinks()
    with ranks.together(f"preparing {folder.path}"):
        if ranks.first:
            folder.make()
            with in_words("use the run folder", folder.path, "run.dir=..."):
                fence_of(footing).check()
                announce.freeze(folder, recipe, config, ranks)
                dropped = folder.cut_to(start)
                sinks = Sinks(folder, start, progress.say, footing)
            if dropped:
                progress.say(f"{dropped} recorded steps after step {start} are dropped: no checkpoint holds them")
    return sinks


def set_back_to(loaded: Loaded | None, progress: Progress, ranks: Ranks, footing: Footing | None = None) -> None:
    """Bring checkpoints/ to where the run goes on, or ended: later checkpoints, all damaged, aside; pointers right."""
    with ranks.together("going on from a checkpoint"):
        if loaded is None or not ranks.first:
            return
        with in_words("go on in", loaded.folder.parent):
            fence = fence_of(footing)
            fence.check()
            bring_back(loaded.folder.parent, progress.say, fence.start)
            go_on_from(loaded.folder.parent, loaded.state["step"], loaded.state["best_step"], progress.say, fence)


def fence_of(footing: Footing | None) -> Fence:
    """None: nobody locked the folder, or this rank publishes nothing."""
    return Fence() if footing is None else footing.fence


def _keep(tokenizer: Any, folder: RunFolder) -> None:
    making = folder.path / ".making_tokenizer"
    folder.make()
    with in_words("keep the tokenizer in", folder.path, "run.dir=..."):
        for old in (making, folder.tokenizer):
            if old.exists():
                shutil.rmtree(old)
        tokenizer.save(making)
        making.rename(folder.tokenizer)

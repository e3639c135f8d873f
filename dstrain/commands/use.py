"""`dstrain eval`, and what every use of a run begins with: its model, built again from a checkpoint alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, NamedTuple, TypeVar

from dstrain.config.errors import UserError
from dstrain.config.load import load_saved_recipe
from dstrain.config.model_code import as_saved
from dstrain.config.schema import Recipe

TRIES = 10
T = TypeVar("T")


class Trained(NamedTuple):
    recipe: Recipe
    family: Any
    tokenizer: Any
    trainee: Any
    ranks: Any
    where: Path


def eval_command(run: Path, which: str) -> None:
    from dstrain.train.evaluate import evaluate
    trained = load_trained(run, which)
    if not trained.recipe.data.valid:
        raise UserError(f"{run} was trained without data.valid: there is nothing to score")
    scores = evaluate(trained.trainee, trained.trainee, trained.family, trained.recipe, trained.tokenizer,
                      trained.ranks)
    if trained.family.generated_scores is not None:
        scores |= trained.family.generated_scores(trained.trainee.model, trained.tokenizer, trained.recipe,
                                                  trained.ranks, True, lambda: False)
    print(f"{trained.where}, validation data:")
    tables = trained.family.scores_in_words(trained.recipe, scores)
    for name, value in scores.items():
        if not (tables and isinstance(value, (dict, list))):
            print(f"  {name:<16} " + (f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
                                      if isinstance(value, float) else str(value)))
    print("".join(f"{line}\n" for line in tables), end="")


def load_trained(run: Path, which: str, command: str | None = None) -> Trained:
    """Model, tokenizer and recipe from a checkpoint folder, in one process, in fp32. A UserError where `command` is not
    the one that uses such a model."""
    from dstrain.families import family_of
    from dstrain.runtime.checkpoint.loading import load
    from dstrain.runtime.dist import lone_rank
    from dstrain.runtime.engine import fill_weights

    def read(where: Path) -> Trained:
        recipe = as_saved(load_saved_recipe(where / "recipe.yaml"), where)
        family = family_of(recipe)
        if command not in (None, family.command):
            raise UserError(f"{run} is a run of the family {family.name}: use `dstrain {family.command} {run}`")
        tokenizer, ranks = family.open_tokenizer(recipe, where / "tokenizer"), lone_rank()
        trainee = family.build_trainee(recipe, tokenizer)
        if command is not None and not hasattr(trainee.model, "extend"):
            raise UserError(f"{where}: {type(trainee.model).__name__} (model.code) has no new_cache and extend: it can "
                            f"be trained and scored, but writes no text; add them, see docs/overview.md")
        fill_weights(trainee, load(where).weight_of)
        return Trained(recipe, family, tokenizer, trainee.to(ranks.device).eval(), ranks, where)

    return read_checkpoint(run, which, read)


def read_checkpoint(run: Path, which: str, read: Callable[[Path], T]) -> T:
    """What `read` makes of a checkpoint whose files are what its manifest says.

    A training beside us may remove that checkpoint at any moment of this, as it moves on to newer ones: then its
    successor is read instead.
    """
    for _ in range(TRIES):
        where = find_checkpoint(run, which)
        try:
            refuse_damaged(where)
            return read(where)
        except (UserError, OSError):
            if where.exists():
                raise
    raise UserError(f"{run}: its training removed the checkpoint {TRIES} times while it was read; "
                    "copy the newest one elsewhere and name the copy, or set checkpoint.keep higher")


def refuse_damaged(where: Path) -> None:
    from dstrain.runtime.checkpoint.manifest import verify

    fault = verify(where)
    if fault is not None:
        raise UserError(f"{where} is damaged: {fault}; choose another with --checkpoint")


def find_checkpoint(run: Path, which: str) -> Path:
    """RUN is a run folder or a checkpoint folder itself; `which` is latest, best or a step."""
    if (run / "manifest.json").is_file():
        return run
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{run} is not a run folder with checkpoints" + _runs_nearby(run))
    from dstrain.runtime.checkpoint.folder import committed, pointed
    there = committed(folder)
    if which == "latest":
        found = there[-1] if there else None
    elif which == "best":
        found = pointed(folder, "best")
    else:
        found = next((path for path in there if path.name in (which, f"step_{which:0>8}")), None)
    if found is None:
        names = ", ".join(path.name for path in there) or "none yet"
        raise UserError(f"--checkpoint {which}: not in {folder}, which has {names}")
    return found


def _runs_nearby(run: Path) -> str:
    parent = run.parent if run.parent.is_dir() else Path("runs")
    names = sorted(str(path.parent) for path in parent.glob("*/checkpoints")) if parent.is_dir() else []
    return f"; there are {', '.join(names)}" if names else "; train one first with `dstrain train RECIPE`"

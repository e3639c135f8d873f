"""A run that was interrupted and went on, twice, is the run that was not: rows, losses, lr, weights and moments."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe, Source
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, exactly
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.train.records import paired_records
from dstrain.train.run_folder import RunFolder
from dstrain.train.trainer import train

CLAIM = "interrupted and continued, twice, with validations between: bit-equal"
STEPS = 6


def prove(case: Case) -> Finding:
    data = case.family.anatomy.excerpt(case.recipe, case.new_folder("valid"), few=True).data
    differences, compared = differences_after_two_stops(case, case.worlds[-1], valid=(data.valid or data.train)[:1])
    return exactly(len(differences), compared, "records and checkpoint files",
                   f"first: {differences[0] if differences else ''}: state that no checkpoint carries, rows that were "
                   "prefetched but not trained on, or a validation that changes the steps after it")


def differences_after_two_stops(case: Case, world: int, ds_config: str | None = None,
                                valid: tuple[Source, ...] = ()) -> tuple[list[str], int]:
    """The whole run against one that lost all after step 2, went on, lost all after step 4, and went on."""
    recipe = resumable(case.recipe, valid)
    folder = case.new_folder("resume")
    straight, stopped = folder / "straight", folder / "stopped"
    run_to_end(case, recipe, straight, world, ds_config)
    shutil.copytree(straight, stopped)
    for lost_after in (2, 4):
        forget_after(stopped, recipe, lost_after)
        run_to_end(case, recipe, stopped, world, ds_config)
    return compare_runs(straight, stopped, recipe)


def resumable(recipe: Recipe, valid: tuple[Source, ...] = ()) -> Recipe:
    """Saves after every second step. With `valid` it validates there too, which must leave no trace in later steps."""
    return replace(recipe, run=replace(recipe.run, name="run", steps=STEPS),
                   checkpoint=replace(recipe.checkpoint, every=2, keep=99),
                   data=replace(recipe.data, valid=valid), valid=replace(recipe.valid, every=2, patience=None),
                   log=replace(recipe.log, every=1), schedule=replace(
                       recipe.schedule, warmup_steps=2, decay_steps=recipe.schedule.decay_steps and STEPS - 2))


def run_to_end(case: Case, recipe: Recipe, folder: Path, world: int, ds_config: str | None = None) -> None:
    recipe = replace(recipe, run=replace(recipe.run, dir=str(folder)))
    case.ranks(world).run(run_training, recipe, ds_config)


def run_training(ranks: Ranks, recipe: Recipe, ds_config: str | None) -> None:
    """The trainer itself, as `dstrain train` calls it; what it prints goes nowhere."""
    import contextlib
    import io
    with contextlib.redirect_stdout(io.StringIO()):
        train(recipe, family_of(recipe), engine_json(recipe, ranks.world, ranks.device.type, ds_config), ranks)


def forget_after(folder: Path, recipe: Recipe, step: int) -> None:
    """As if the run had died before its next checkpoint: the side files go further than the last, and are torn."""
    run = RunFolder(folder / recipe.run.name)
    for path in run.checkpoints.glob("step_*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    with open(run.metrics, "a") as file:
        file.write('{"step": 99, "lo')


def compare_runs(one: Path, other: Path, recipe: Recipe) -> tuple[list[str], int]:
    """(what differs, how much was compared): metrics and ledger without wall-clock fields, every checkpoint file."""
    a, b = RunFolder(one / recipe.run.name), RunFolder(other / recipe.run.name)
    pairs = [(what, x, y) for name in ("metrics", "ledger")
             for what, x, y in paired_records(getattr(a, name), getattr(b, name))]
    for path in sorted(a.checkpoints.glob("step_*/*")):
        if path.suffix == ".safetensors" or path.name == "state.json":
            twin = b.checkpoints / path.relative_to(a.checkpoints)
            pairs.append((str(path.relative_to(a.path)), path.read_bytes(),
                          twin.read_bytes() if twin.is_file() else None))
    return [what for what, x, y in pairs if x != y], len(pairs)

"""A run that was interrupted and went on is the run that was not: rows, losses, lr, weights and moments."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from dstrain.config.arc import PuzzleData
from dstrain.config.counted import CountedInTokens
from dstrain.config.schema import Recipe, Source
from dstrain.data.grids.sources import open_puzzles
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest, relative
from dstrain.doctor.proofs.same_curve import BOUND
from dstrain.doctor.quiet_training import train_quietly
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.train.records import paired_records
from dstrain.train.run_folder import RunFolder, read_lines

CLAIM = "interrupted and continued, twice, over an epoch's end, on 1 and 2 ranks: bit-equal; on fewer ranks to rounding"
STEPS = 6
LONG, LONG_STOPS = 12, (6, 9)
"""on a few documents: of each lane, or window of pairs, some have ended before the stops, and some end between"""
WINDOW = 16
"""of pairs: several in a run"""
KEPT = ("lr", "tokens")
"""what another number of ranks leaves as it was, to the bit"""


def prove(case: Case) -> Finding:
    few = case.family.anatomy.excerpt(case.recipe, case.new_folder("few"), few=True)
    if isinstance(few.batch, CountedInTokens):
        few = replace(few, batch=replace(few.batch, window=min(WINDOW, few.batch.window)))
    recipe = resumable(few, (few.data.valid or few.data.train)[:1], LONG, every=3)
    differences, compared, most = [], 0, case.worlds[-1]
    for world in case.worlds:
        folder = case.new_folder("resume")
        found, number = stopped_twice(case, recipe, folder, world, None, LONG_STOPS)
        differences += [f"on {world}: {what}" for what in found]
        compared += number
    off = 0.0
    if most > 1:  # the folder is that of the largest number of ranks
        found, off = moved(case, recipe, folder, LONG_STOPS[0])
        differences += [f"from {most} to 1: {what}" for what in found]
    bound = BOUND[case.precision]
    ended = epochs_ended(folder / "straight" / recipe.run.name / "checkpoints", LONG_STOPS, questions_of(recipe))
    return Finding(
        not differences and compared > 0 and off <= bound,
        f"{len(differences)} of {compared:,} records and checkpoint files differ on "
        f"{' and '.join(map(str, case.worlds))} rank(s), {ended} ended epoch(s) in what was gone on from"
        + (f"; from {most} ranks to 1 losses {off:.1e} off" if most > 1 else ""),
        f"none, to the bit; on another number of ranks losses {bound:.0e}, rounding of {case.precision}",
        "" if not differences and off <= bound else f"first: {differences[0] if differences else 'a loss'}: state that "
        "no checkpoint carries, rows that were prefetched but not trained on, an epoch's place that is lost, or a "
        "validation that changes the steps after it")


def differences_after_two_stops(case: Case, world: int, ds_config: str | None = None,
                                valid: tuple[Source, ...] = ()) -> tuple[list[str], int]:
    """The whole run against one that lost all after step 2, went on, lost all after step 4, and went on."""
    return stopped_twice(case, resumable(case.recipe, valid), case.new_folder("resume"), world, ds_config, (2, 4))


def stopped_twice(case: Case, recipe: Recipe, folder: Path, world: int, ds_config: str | None,
                  stops: tuple[int, int]) -> tuple[list[str], int]:
    """In `folder`/straight the whole run, in `folder`/stopped the one that lost all after each of the stops."""
    straight, stopped = folder / "straight", folder / "stopped"
    run_to_end(case, recipe, straight, world, ds_config)
    shutil.copytree(straight, stopped)
    for lost_after in stops:
        forget_after(stopped, recipe, lost_after)
        run_to_end(case, recipe, stopped, world, ds_config)
    return compare_runs(straight, stopped, recipe)


def moved(case: Case, recipe: Recipe, folder: Path, lost_after: int) -> tuple[list[str], float]:
    """(what differs where nothing may, largest relative difference of a loss) of a run that goes on, on one rank."""
    alone = folder / "alone"
    shutil.copytree(folder / "straight", alone)
    forget_after(alone, recipe, lost_after)
    run_to_end(case, recipe, alone, 1)
    before, after = (RunFolder(each / recipe.run.name) for each in (folder / "straight", alone))
    differences = [what for what, x, y in paired_records(before.ledger, after.ledger) if x != y]
    pairs = list(zip_longest(read_lines(before.metrics), read_lines(after.metrics), fillvalue={}))
    differences += [f"{key} of step {x.get('step')}" for x, y in pairs for key in KEPT if x.get(key) != y.get(key)]
    return differences, largest(relative(x.get("loss", math.nan), y.get("loss", math.nan)) for x, y in pairs)


def questions_of(recipe: Recipe) -> int:
    """Of puzzles, which a place counts through all epochs; 0 where it says the epoch itself."""
    return min(map(len, open_puzzles(recipe.data, "train"))) if isinstance(recipe.data, PuzzleData) else 0


def epochs_ended(checkpoints: Path, steps: tuple[int, ...], questions: int) -> int:
    """In the places of those checkpoints' feeds: the largest number of an epoch."""
    numbers: list[int] = [0]

    def look(found: dict) -> dict:
        numbers.append(found.get("given", 0) // questions if questions else found.get("epoch", 0))
        return found

    for path in checkpoints.glob("step_*/state.json"):
        if int(path.parent.name[5:]) in steps:
            json.loads(path.read_text(), object_hook=look)
    return max(numbers)


def resumable(recipe: Recipe, valid: tuple[Source, ...] = (), steps: int = STEPS, every: int = 2) -> Recipe:
    """Saves after every second step, or so. With `valid` it validates there too: no trace of it in later steps."""
    return replace(recipe, run=replace(recipe.run, name="run", steps=steps),
                   checkpoint=replace(recipe.checkpoint, every=every, keep=99),
                   data=replace(recipe.data, valid=valid), valid=replace(recipe.valid, every=every, patience=None),
                   log=replace(recipe.log, every=1), schedule=replace(
                       recipe.schedule, warmup_steps=2, decay_steps=recipe.schedule.decay_steps and steps - 2))


def run_to_end(case: Case, recipe: Recipe, folder: Path, world: int, ds_config: str | None = None) -> None:
    recipe = replace(recipe, run=replace(recipe.run, dir=str(folder)))
    case.ranks(world).run(run_training, recipe, ds_config)


def run_training(ranks: Ranks, recipe: Recipe, ds_config: str | None) -> None:
    train_quietly(ranks, recipe, family_of(recipe), ds_config)


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

"""One run through many shapes, against the run that never changed: the same rows, the same losses.

    .venv/bin/python tests/faults/elastic.py           three journeys, 20 steps a leg, about two minutes
    .venv/bin/python tests/faults/elastic.py 5         so many steps a leg

Each leg ends as a preempted run does, by a save and exit, and the next call goes on in another shape: other ranks,
another ZeRO stage, other micro-batches, another precision. Rows must be identical; fp32 losses within 1e-5 relative of
the run that never changed (in bf16: within 5e-3). After a leg in bf16 there is no such run: there the next leg is held
against one that goes on from the same checkpoint in the shape of the first leg. Exit code 1 if anything is further off.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/faults")]

from elastic_jobs import leg  # noqa: E402  (the folders of this file are not those of a package)
from small_run import lay_out  # noqa: E402

from dstrain.config.load import load_recipe  # noqa: E402
from dstrain.config.schema import Recipe  # noqa: E402
from dstrain.runtime.rank_group import RankGroup  # noqa: E402
from dstrain.train.run_folder import RunFolder, read_lines  # noqa: E402

CLOSE, CLOSE_IN_BF16 = 1e-5, 5e-3


class Shape(NamedTuple):
    ranks: int
    engine: str
    micro_rows: int


class Leg(NamedTuple):
    """What came of a leg."""

    journey: str
    shape: Shape
    first: int
    last: int
    rows: int
    """steps with the same rows as the run that never changed"""
    loss: float
    """largest relative deviation of a step's loss"""
    norm: float
    """the same of the gradient's norm"""
    verified: bool
    """whether the run said that it holds what was saved"""
    well: bool


HOME = Shape(1, "zero1_fp32", 4)
JOURNEYS = {
    "ranks and stages": [HOME, Shape(2, "zero2_fp32", 4), Shape(4, "zero3_fp32", 1), Shape(1, "zero1_fp32", 8)],
    "stages back": [Shape(4, "zero3_fp32", 2), Shape(2, "zero1_fp32", 1), Shape(1, "zero0_fp32", 3),
                    Shape(2, "zero3_fp32", 4)],
    "precision": [HOME, Shape(2, "zero2_bf16", 2), Shape(1, "zero1_fp32", 8), Shape(2, "zero3_bf16", 4),
                  Shape(4, "zero2_fp32", 1)],
}


def travel(place: Path, journeys: dict[str, list[Shape]], steps: int) -> list[Leg]:
    """Every leg of every journey."""
    worlds = {HOME.ranks, *(shape.ranks for legs in journeys.values() for shape in legs)}
    groups = {world: RankGroup(world) for world in sorted(worlds)}
    try:
        lay_out(place)
        total = steps * max(map(len, journeys.values()))
        recipe = load_recipe(str(place / "small.yaml"), [f"run.steps={total}", "data.valid=[]", "log.every=1",
                                                         "checkpoint.every=1000000", "checkpoint.keep=99"])
        go(groups, place, named(recipe, "unchanged", HOME), HOME, total + 1)
        return [outcome for journey, shapes in journeys.items()
                for outcome in _journey(groups, place, recipe, journey, shapes, steps)]
    finally:
        for group in groups.values():
            group.close()


def _journey(groups: dict[int, RankGroup], place: Path, recipe: Recipe, journey: str, shapes: list[Shape],
             steps: int) -> list[Leg]:
    name, legs, unchanged = journey.replace(" ", "_"), [], folder_of(place, "unchanged")
    for number, shape in enumerate(shapes):
        before, is_after_bf16 = folder_of(place, name), any("bf16" in earlier.engine for earlier in shapes[:number])
        if is_after_bf16 and "bf16" not in shape.engine:
            unchanged = folder_of(place, f"{name}_{number}")
            shutil.copytree(before.path, unchanged.path)
            go(groups, place, named(recipe, unchanged.path.name, HOME), HOME, recipe.run.steps + 1)
        said = go(groups, place, named(recipe, name, shape), shape, steps)
        close = CLOSE_IN_BF16 if "bf16" in shape.engine else CLOSE
        legs.append(compared(journey, shape, before, unchanged, number * steps + 1, (number + 1) * steps, close,
                             number == 0 or "verified: " in said))
    return legs


def compared(journey: str, shape: Shape, run: RunFolder, unchanged: RunFolder, first: int, last: int, close: float,
             verified: bool) -> Leg:
    rows = [({line["step"]: line["rows"] for line in read_lines(folder.ledger)}) for folder in (run, unchanged)]
    records = [{line["step"]: line for line in read_lines(folder.metrics)} for folder in (run, unchanged)]
    steps = range(first, last + 1)
    same = sum(rows[0].get(step) == rows[1][step] for step in steps)

    def off(key: str) -> float:
        return max(abs(records[0][step][key] / records[1][step][key] - 1) for step in steps)

    well = same == len(steps) and off("loss") <= close and verified and all(
        records[0][step]["lr"] == records[1][step]["lr"] and records[0][step]["tokens"] == records[1][step]["tokens"]
        for step in steps)
    return Leg(journey, shape, first, last, same, off("loss"), off("grad_norm"), verified, well)


def go(groups: dict[int, RankGroup], place: Path, recipe: Recipe, shape: Shape, steps: int) -> str:
    return groups[shape.ranks].run(leg, recipe, shape.engine, steps, place)[0]


def named(recipe: Recipe, name: str, shape: Shape) -> Recipe:
    return replace(recipe, run=replace(recipe.run, name=name),
                   batch=replace(recipe.batch, micro_rows=shape.micro_rows))


def folder_of(place: Path, name: str) -> RunFolder:
    return RunFolder(place / "runs" / name)


def table(legs: list[Leg]) -> str:
    lines = [f"{'journey':<18}{'steps':>9}  {'shape':<34}{'same rows':>10}{'loss off by':>13}{'norm off by':>13}"
             "  verified"]
    for leg_ in legs:
        shape = f"{leg_.shape.ranks} rank(s), {leg_.shape.engine}, {leg_.shape.micro_rows} micro-rows"
        lines.append(f"{leg_.journey:<18}{leg_.first:>4}-{leg_.last:<4}  {shape:<34}"
                     f"{leg_.rows:>4} of {leg_.last - leg_.first + 1:<3}{leg_.loss:>12.1e}{leg_.norm:>13.1e}  "
                     f"{'yes' if leg_.verified else 'NO'}" + ("" if leg_.well else "  WRONG"))
    return "\n".join(lines)


def main() -> int:
    steps = int(sys.argv[1]) if sys.argv[1:] else 20
    with tempfile.TemporaryDirectory(prefix="dstrain-elastic-") as place:
        began = time.monotonic()
        legs = travel(Path(place), JOURNEYS, steps)
        print(table(legs))
        print(f"{sum(not leg_.well for leg_ in legs)} of {len(legs)} legs WRONG; {time.monotonic() - began:.0f} s")
    return int(not all(leg_.well for leg_ in legs))


if __name__ == "__main__":
    sys.exit(main())

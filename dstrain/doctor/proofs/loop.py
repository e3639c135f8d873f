"""The trainer's own loop, with its prefetching and its counting: the steps that the other proofs look at are its."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from dstrain.config.shape import in_micro_batches
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding
from dstrain.doctor.proofs.resume import run_training
from dstrain.doctor.proofs.schedule import asked_share
from dstrain.doctor.short_run import Trace, short_run
from dstrain.train.run_folder import RunFolder, read_lines

CLAIM = "the trainer's loop gives the rows, losses, gradient norms and lrs of its steps taken one by one, to the bit"
STEPS, WARMUP = 5, 3
LR_BOUND = 1e-12
KEYS = ("loss", "grad_norm", "lr", "tokens", "skipped")


def prove(case: Case) -> Finding:
    """Many small micro-batches, on the largest number of ranks; the recipe's own curve, its warm-up squeezed."""
    schedule = replace(case.recipe.schedule, warmup_steps=WARMUP,
                       decay_steps=case.recipe.schedule.decay_steps and STEPS - WARMUP)
    folder = case.new_folder("loop")
    recipe = replace(in_micro_batches(case.recipe, case.family.anatomy.micro_sizes[0]), schedule=schedule,
                     run=replace(case.recipe.run, name="run", dir=str(folder), steps=STEPS),
                     data=replace(case.recipe.data, valid=()), log=replace(case.recipe.log, every=2),
                     checkpoint=replace(case.recipe.checkpoint, every=STEPS))
    group = case.ranks(case.worlds[-1])
    expected: Trace = group.run(partial(short_run, ragged=False), recipe, None, STEPS)[0]
    group.run(run_training, recipe, None)
    run = RunFolder(folder / "run")
    found = [record for record in read_lines(run.metrics) if "split" not in record]
    other = different(expected, found, read_lines(run.ledger))
    off_curve = [record["step"] for record in found if not
                 abs(record["lr"] / recipe.optim.lr - asked_share(schedule, record["step"], STEPS)) <= LR_BOUND]
    other += [f"step {step}: an lr off the curve" for step in off_curve]
    return Finding(
        not other, f"{len(other)} differences in {len(found)} steps of {len(KEYS)} figures and their rows, on "
        f"{case.worlds[-1]} rank(s)" + (f"; first {other[0]}" if other else ""), "none, to the bit",
        "a step that is counted wrongly, micro-batches left out or repeated, or rows of another step" if other else "",
        "look at what dstrain/train/trainer.py hands to train_step" if other else "")


def different(expected: Trace, records: list[dict], ledger: list[dict]) -> list[str]:
    """What the trainer wrote down otherwise, in words; a step that is missing, too."""
    if not len(records) == len(ledger) == len(expected.records) == STEPS:
        return [f"{len(records)} steps and {len(ledger)} lines of rows, for {STEPS}"]
    return [f"step {number}: {key} {found.get(key)} for {asked.get(key)}"
            for of, keys in ((zip(expected.records, records), ("step", *KEYS)),
                             (zip(expected.ledger, ledger), ("step", "rows", "scored")))
            for number, (asked, found) in enumerate(of, start=1) for key in keys if asked.get(key) != found.get(key)]

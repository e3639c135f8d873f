"""fp16 from a scale that is too large: which steps are skipped, what they change, and where the scale ends."""

from __future__ import annotations

from dataclasses import replace

from case_here import CaseHere
from frame import Here, Outcome, judge

from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.doctor.finding import largest, relative
from dstrain.doctor.short_run import Trace, short_run, whole
from dstrain.families import family_of

SCALE_POWER = 40
"""the first steps' gradients times 2^40 are Inf in fp16, whatever the model"""
SKIPPED = 4
"""steps of the shorter run, in which nothing else can happen"""
STEPS = 40
LOSSES = 2e-3


def show(here: Here) -> Outcome:
    case = CaseHere.of(here)
    rows, stages = case.recipe.batch.rows, (1, 3) if here.rehearsing else (1, 2, 3)
    figures, holds = {}, {}
    for micro_rows in (rows,) if here.rehearsing else (rows, rows // 4):
        where = f"{rows // micro_rows} micro-batches"
        recipe = replace(case.recipe, run=replace(case.recipe.run, steps=STEPS),
                         batch=replace(case.recipe.batch, micro_rows=micro_rows))
        traces = {stage: short_run(here.ranks, recipe, _engine_file(case, stage), STEPS) for stage in stages}
        first = traces[stages[0]]
        skipped = {stage: _skipped(trace) for stage, trace in traces.items()}
        off = largest(relative(a, b) for trace in traces.values()
                      for a, b in zip(trace.losses, first.losses, strict=True))
        figures[where] = {"skipped_steps": skipped, "losses_apart": off, "losses": first.losses}
        here.note(figures)
        began = list(range(1, SKIPPED + 1))
        holds |= {f"{where}, ZeRO-{stage}: skipped {steps}, at ZeRO-{stages[0]} {skipped[stages[0]]}":
                  steps == skipped[stages[0]] and steps[:SKIPPED] == began and len(steps) < STEPS - 5
                  for stage, steps in skipped.items()}
        holds |= {f"{where}: losses {off:.1e} apart": off <= LOSSES,
                  f"{where}: it does not learn afterwards": first.losses[-1] < first.losses[0]}
    changed = {stage: _changed_weights(here, case.recipe, _engine_file(case, stage)) for stage in stages}
    figures["changed_weights"] = changed
    holds |= {f"ZeRO-{stage}: {count} weights changed by skipped steps": count == 0
              for stage, count in changed.items()}
    return judge(here, holds, figures, "the same steps skipped at every stage, from the first one on; 0 weights "
                 f"changed by them; losses within {LOSSES:.0e} relative between stages, and lower at the end")


def _engine_file(case: CaseHere, stage: int) -> str:
    return case.engine_file(f"zero{stage}", {"zero_optimization": {"stage": stage}, "fp16": {
        "enabled": True, "initial_scale_power": SCALE_POWER, "hysteresis": 1}})


def _skipped(trace: Trace) -> list[int]:
    return [record["step"] for record in trace.records if record["skipped"]]


def _changed_weights(here: Here, recipe: Recipe, engine_file: str) -> int:
    """fp32 weights that are not, to the bit, what they began as (rounded to fp16) after steps that were all skipped."""
    trace = short_run(here.ranks, recipe, engine_file, SKIPPED)
    assert len(_skipped(trace)) == SKIPPED, f"of {SKIPPED} steps at such a scale only {_skipped(trace)} were skipped"
    family = family_of(recipe)
    model = family.build_trainee(recipe, load_tokenizer(recipe.tokenizer)).model
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = whole([trace.weights], shapes)
    return sum(int((found[name] != family.initial_weight(model, name, shape, recipe.run.seed).half().double()).sum())
               for name, shape in shapes.items())

"""Losses and gradients of one precision at every ZeRO stage and in several micro-batches, against two references.

The references: fp32 at ZeRO-1, the whole batch at once, on the same device; and a step in float64 on the CPU, without
DeepSpeed.
"""

from __future__ import annotations

from case_here import CaseHere
from frame import Here, Outcome, judge

from dstrain.doctor.finding import relative
from dstrain.doctor.proofs.gradient import error_at
from dstrain.doctor.proofs.same_curve import STEPS, compare, run
from dstrain.doctor.reference import reference_step

STAGES = {"fp32": (0, 1, 2, 3), "bf16": (1, 2, 3), "fp16": (1, 2, 3)}
LOSSES = {"fp32": 1e-5, "bf16": 5e-3, "fp16": 2e-3}
FIRST_LOSS = {"fp32": 1e-6, "bf16": 2e-3, "fp16": 1e-3}
GRADIENT = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 5e-3}
SAFE_SCALE_POWER = 8
"""a scale of 2^8 at which no gradient of this model overflows: equality is claimed for such steps"""


def show(here: Here, precision: str) -> Outcome:
    case = CaseHere.of(here)
    rows = case.recipe.batch.rows
    loss64, gradient64 = reference_step(case.recipe)
    whole = run(case, 1, rows, "zero1_fp32")
    figures, holds = {"steps": STEPS, "losses_fp32": whole.losses, "first_loss_float64": loss64}, {}
    for stage in STAGES[precision][1::2] if here.rehearsing else STAGES[precision]:
        engine_file = _engine_file(case, stage, precision)
        for micro_rows in (rows // 4,) if here.rehearsing else (rows, rows // 4, rows // 8):
            trace = run(case, 1, micro_rows, engine_file)
            off, other_rows = compare(whole, [trace])
            first = relative(trace.losses[0], loss64)
            name = f"ZeRO-{stage}, {rows // micro_rows} micro-batches"
            figures[name] = {"losses": off, "other_rows": other_rows, "first_loss": first,
                             "skipped": sum(record["skipped"] for record in trace.records)}
            holds |= {f"{name}: losses {off:.1e}": off <= LOSSES[precision],
                      f"{name}: {other_rows} steps with other rows": other_rows == 0,
                      f"{name}: first loss {first:.1e}": first <= FIRST_LOSS[precision],
                      f"{name}: skipped steps": figures[name]["skipped"] == 0}
        off = error_at(case, gradient64, 1, rows // 4, engine_file)
        figures[f"ZeRO-{stage}, gradient"] = off
        holds[f"ZeRO-{stage}: gradient {off:.1e}"] = off <= GRADIENT[precision]
        here.note(figures)
    return judge(here, holds, figures,
                 f"relative: losses {LOSSES[precision]:.0e} of fp32, first loss {FIRST_LOSS[precision]:.0e} of "
                 f"float64; gradient {GRADIENT[precision]:.0e} of its norm; rows none; no step skipped")


def _engine_file(case: CaseHere, stage: int, precision: str) -> str:
    if precision != "fp16":
        return f"zero{stage}_{precision}"
    return case.engine_file(f"zero{stage}_fp16", {"zero_optimization": {"stage": stage}, "fp16": {
        "enabled": True, "initial_scale_power": SAFE_SCALE_POWER}})

"""Model and data: parameters, tokens, tokens per parameter, epochs; the batch and the warm-up beside them."""

from __future__ import annotations

from dstrain.config.arc import PuzzleData
from dstrain.config.shape import positions_a_step
from dstrain.data.grids.sources import open_puzzles
from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look

FEW_TOKENS, MANY_EPOCHS = 5, 4
"""targets per parameter below which a model is large for its data; repetitions that still help"""
SMALL_BATCH = 2_000
"""positions of a step below which its gradient is mostly noise for a language model"""


def figures(look: Look) -> list[Figure]:
    return [_size(look), _epochs(look), _batch(look), _warm_up(look)]


def _size(look: Look) -> Figure:
    active = look.family.anatomy.active_parameters(look.recipe, look.parameters)
    per_parameter = look.targets / active
    advice = ""
    if per_parameter < FEW_TOKENS:
        advice = (f"fewer than {FEW_TOKENS} targets per parameter (about 20 is usual for a model trained from "
                  "scratch): train longer, or take a smaller model")
    sparse, kind = (f", {active:,} of them active a token", "active parameter") if active < look.parameters else (
        "", "parameter")
    return Figure("size", f"{look.parameters:,} parameters{sparse}, {look.targets:,.0f} targets in "
                  f"{look.recipe.run.steps:,} steps: {per_parameter:.2g} per {kind}", advice)


def _epochs(look: Look) -> Figure:
    if isinstance(look.recipe.data, PuzzleData):
        return _rounds(look, look.recipe.data)
    text_bytes = look.family.text_bytes(look.recipe)
    if not text_bytes:
        return Figure("epochs", "unknown: nobody knows how much text there is without reading it")
    epochs = look.targets * look.bytes_a_target / text_bytes
    advice = ""
    if epochs > MANY_EPOCHS:
        advice = (f"text that comes more than {MANY_EPOCHS} times is learned by heart rather than from: watch the "
                  "validation loss (valid.patience), use dropout, or find more text")
    return Figure("epochs", f"about {epochs:.2g} over {text_bytes / 1e6:,.1f} MB of text", advice)


def _rounds(look: Look, data: PuzzleData) -> Figure:
    """Of puzzles the questions count, not what they would take as text."""
    questions = sum(map(len, open_puzzles(data, "train")))
    asked = look.totals["documents"] / look.steps * look.recipe.run.steps
    changed = " and ".join(["symmetry"] * data.symmetries + ["colours"] * (data.colours != "none"))
    return Figure("epochs", f"about {asked / questions:.2g}: {asked:,.0f} puzzles of {questions:,} questions"
                  + (f", each time in another {changed}" if changed else ""))


def _batch(look: Look) -> Figure:
    positions = positions_a_step(look.recipe)
    small = positions < SMALL_BATCH
    return Figure("batch", f"{positions:,} positions a step, {look.totals['scored'] / look.steps:,.0f} of them scored",
                  f"below {SMALL_BATCH:,} a step's gradient is mostly noise: take more rows or tokens a step "
                  "(micro-batches keep the memory as it is)" if small else "")


def _warm_up(look: Look) -> Figure:
    steps, of = look.recipe.schedule.warmup_steps, look.recipe.run.steps
    share = steps / of
    advice = ""
    if steps == 0:
        advice = "none: AdamW's first updates are then its largest; 1 to 10 % of the steps are usual"
    elif share > 0.2:
        advice = "more than a fifth of the run is spent below the peak; 1 to 10 % of the steps are usual"
    return Figure("warm-up", f"{steps:,} of {of:,} steps ({100 * share:.1f} %)", advice)

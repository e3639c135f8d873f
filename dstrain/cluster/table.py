"""A table of runs that fits a terminal: columns as wide as what is in them, the last one cut where it must be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dstrain.cluster.run_look import Look
from dstrain.cluster.slurm_time import in_words

WIDTH = 100
SHORTEST_NAME, LONGEST_NAME = 16, 32
STATE_WIDTH = 30
"""so much of the state is shown before the name is cut further"""
HEADER = ("RUN", "STEP", "LOSS", "TOKENS/S", "LEFT", "CHECKPOINT", "STATE")
_RIGHT = (False, True, True, True, True, True, False)
_GAP = "  "


def table(rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    """`rows`: as many cells as HEADER has; the last column takes what is left."""
    rows = [HEADER, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER) - 1)]
    state = min(STATE_WIDTH, max(len(row[-1]) for row in rows))
    rest = width - sum(widths[1:]) - len(_GAP) * len(widths) - state
    widths[0] = min(widths[0], max(SHORTEST_NAME, min(rest, LONGEST_NAME)))
    rows = [[_cut_middle(row[0], widths[0]), *row[1:]] for row in rows]
    lines = []
    for row in rows:
        cells = [cell.rjust(size) if right else cell.ljust(size) for cell, size, right in zip(row, widths, _RIGHT)]
        left = _GAP.join(cells) + _GAP
        lines.append((left + _cut(row[-1], width - len(left))).rstrip())
    return lines


def row_of(look: Look, name: str, state: str) -> tuple[str, ...]:
    step = "-" if look.step is None else f"{short(look.step)}/{'?' if look.steps is None else short(look.steps)}"
    checkpoint = "-"
    if look.checkpoint_step is not None and look.checkpoint_age_s is not None:
        checkpoint = f"{short(look.checkpoint_step)}, {in_words(look.checkpoint_age_s)} ago"
    left = "-" if look.left_s is None or look.is_finished else in_words(look.left_s)
    return (name, step, _loss(look.loss), "-" if look.tokens_per_s is None else short(look.tokens_per_s), left,
            checkpoint, state)


def short(number: float) -> str:
    """At most six signs."""
    if not math.isfinite(number):
        return str(number)
    if abs(number) < 100_000:
        return f"{number:.0f}"
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{sign}"[:7]
    return f"{number:.0f}"


def _loss(loss: float | None) -> str:
    if loss is None:
        return "-"
    return f"{loss:.4f}" if abs(loss) < 1000 else f"{loss:.2e}"  # NaN is neither, and is written as such


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[:max(0, size - 2)] + ".."


def _cut_middle(text: str, size: int) -> str:
    """Names of a sweep differ at their ends."""
    return text if len(text) <= size else f"{text[:size // 4]}..{text[-(size - size // 4 - 2):]}"

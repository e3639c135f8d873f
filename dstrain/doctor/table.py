"""What the doctor prints: a line a proof, and below it the claim and the figure, wrapped to the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from dstrain.doctor.examined import Examined

INDENT = 4
WIDEST = 120


def width_here() -> int:
    """Of the terminal; of a file or a pipe, as wide as the code itself may be."""
    return max(60, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def lines_of(examined: Examined, width: int) -> list[str]:
    """Verdict, name, what it was proved on and seconds; then claim and figure; of a failure all that helps."""
    first = f"{examined.verdict:<11} {examined.name:<13} {examined.at:<7} {examined.seconds:6.1f} s"
    finding = examined.finding
    if finding is None:
        told = [("claim", examined.claim), ("why not", examined.why_not)]
    elif finding.passed:
        told = [("claim", examined.claim), ("found", finding.figure)]
    else:
        told = [("claim", examined.claim), ("found", finding.figure), ("allowed", finding.tolerance),
                ("likely", finding.cause), ("remedy", finding.remedy)]
    return [first, *(line for label, text in told if text for line in labelled(label, text, width))]


def labelled(label: str, text: str, width: int, label_width: int = 8) -> list[str]:
    """The label, and the text wrapped beside it."""
    start = f"{'':{INDENT}}{label:<{label_width}} "
    return textwrap.wrap(" ".join(text.split()), width, initial_indent=start, subsequent_indent=" " * len(start),
                         break_long_words=False, break_on_hyphens=False)


def report(found: Sequence[Examined], width: int) -> str:
    """All of them, one below the other."""
    return "\n".join(line for examined in found for line in lines_of(examined, width))

"""All themes one after the other. A theme that breaks says so in a line: no figure is a reason to fail."""

from __future__ import annotations

from dstrain.doctor.warnings import disk, environment, memory, proportions, sizes, speed, text
from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look

THEMES = (sizes, text, proportions, memory, disk, speed, environment)


def all_figures(look: Look) -> list[Figure]:
    found: list[Figure] = []
    for theme in THEMES:
        try:
            found += theme.figures(look)
        except Exception as error:  # whatever a user's own model, data or machine makes of it
            name = theme.__name__.rpartition(".")[2]
            found.append(Figure(name, f"could not be taken: {type(error).__name__}: {error}"))
    return found

"""Checks of a model's sizes, which every family of Transformers shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dstrain.config.errors import UserError

PlaceOf = Callable[[str], str]


def check_sizes(model: Any, sizes: Sequence[str], presets: str, place_of: PlaceOf) -> None:
    missing = [name for name in sizes if getattr(model, name) is None]
    if model.preset is None and missing:
        raise UserError(f"{place_of('model')}: model has no preset and no {', '.join(missing)}; "
                        f"set model.preset ({presets}) or all of {', '.join(sizes)}")
    width, heads = model.width, model.heads
    if width is None or heads is None:
        return  # a preset fills them; checked again then
    place = place_of("model.heads")
    if width % heads:
        raise UserError(f"{place}: model.heads is {heads}, which does not divide model.width {width}; "
                        f"choose one of {divisors(width)}")
    if model.positions == "rotary" and (width // heads) % 2:
        raise UserError(f"{place}: model.heads is {heads}, so each head has {width // heads} of model.width {width} "
                        f"channels, and rotary positions turn pairs of them; choose heads with an even width / heads")
    if model.positions == "sinusoidal" and width % 2:
        raise UserError(f"{place_of('model.width')}: model.width is {width}, and sinusoidal positions need pairs of "
                        f"channels; choose an even width")


def divisors(number: int) -> str:
    found = [d for d in range(1, min(number, 4096) + 1) if number % d == 0]
    return ", ".join(map(str, found[:16])) + (", ..." if len(found) > 16 else "")

"""Norms by layer, for TensorBoard: how large gradient, weight and update are, and which parameters do not move."""

from __future__ import annotations

from dstrain.runtime.norms import Norms

SHOWN = 6
"""names in a line; more are counted"""


class Movement:
    """Remembers which parameters it has named."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def scalars(self, norms: dict[str, Norms]) -> dict[str, float]:
        """By TensorBoard tag: gradient_norm/blocks.03.attention, and so on, four charts for each part of each block."""
        parts: dict[str, list[Norms]] = {}
        for name, of_name in norms.items():
            parts.setdefault(part_of(name), []).append(of_name)
        shown = {}
        for part, members in parts.items():
            gradient, weight, update = Norms.together(members)
            shown |= {f"gradient_norm/{part}": gradient, f"weight_norm/{part}": weight, f"update_norm/{part}": update}
            if weight:
                shown[f"update_per_weight/{part}"] = update / weight
        return shown

    def news(self, step: int, norms: dict[str, Norms], lr: float, rests: bool = False) -> list[str]:
        """Lines about parameters that an applied step left exactly as they were, each named once. `rests`: some have
        no gradient as the recipe wants it, so those are named another time."""
        if not lr:
            return []
        still = [name for name, of_name in norms.items() if not of_name.update and name not in self._named
                 and not (rests and not of_name.gradient)]
        self._named.update(still)
        reasons = (("no gradient reaches them", [name for name in still if not norms[name].gradient]),
                   ("their updates are too small to change them", [name for name in still if norms[name].gradient]))
        return [f"step {step}: {len(names)} parameter(s) do not move: {_some(names)}; {reason}"
                for reason, names in reasons if names]


def part_of(name: str) -> str:
    """What a parameter belongs to: blocks.3.attention.qkv.weight to blocks.03.attention, embed.weight to embed."""
    module = name.split(".")[:-1] or [name]
    number = next((place for place, word in enumerate(module) if word.isdigit()), None)
    if number is None:
        return module[0]
    return ".".join(word.zfill(2) if word.isdigit() else word for word in module[:number + 2])


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")

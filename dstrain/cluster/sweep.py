"""`--sweep optim.lr=1e-3,2e-3`: one run a value, each with a name, and so a folder, of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.schema import Recipe

MOST_MEMBERS = 1000


@dataclass(frozen=True)
class Member:
    """One run: its recipe, and what it has that the others have otherwise ('' without a sweep)."""

    recipe: Recipe
    override: str = ""


def members_of(sweep: str | None, overrides: Sequence[str], load: Callable[[Sequence[str]], Recipe]) -> list[Member]:
    """`load` makes the recipe of overrides: each member's is checked as a whole."""
    if sweep is None:
        return [Member(load(overrides))]
    key, equals, text = sweep.partition("=")
    values = _split(text)
    if not equals or not key.strip() or len(values) < 2 or not all(values):
        raise UserError(f"--sweep {shown(sweep)}: not a key with several values; write for example "
                        f"--sweep optim.lr=1e-3,2e-3,3e-3")
    if len(values) > MOST_MEMBERS:
        raise UserError(f"--sweep {key}: {len(values)} values, of at most {MOST_MEMBERS}; sweep in parts")
    if key.split(".")[0] == "run" and key != "run.seed":
        raise UserError(f"--sweep {key}: every member's run.name is made by the sweep, and what else stands in run "
                        f"decides how long or where it trains; sweep another key, or submit those runs one by one")
    base = load(overrides).run.name
    members: dict[str, Member] = {}
    for value in values:
        own = f"{key}={value}"
        name = f"{base}-{key.rsplit('.', 1)[-1]}={_in_a_name(_value(load([*overrides, own]), key))}"
        if name in members:
            raise UserError(f"--sweep {shown(sweep)}: {members[name].override} and {own} are the same, or give the "
                            f"same run.name {name}; give each value once")
        members[name] = Member(load([*overrides, own, f"run.name={name}"]), own)
    return list(members.values())


def _value(recipe: Recipe, key: str) -> Any:
    """As the recipe has it: 1e-3 and 0.001 are one."""
    value: Any = recipe
    for name in key.split("."):
        value = value[int(name)] if isinstance(value, tuple) else getattr(value, name, None)
    return value


def _in_a_name(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text.replace("+", "")).strip("_")


def _split(text: str) -> list[str]:
    """At commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]

"""Overrides from the command line, `section.key=value`, written into a recipe's tree."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence

from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.schema import SECTIONS, Recipe
from dstrain.config.yaml_tree import Marked, parse_value


def apply_overrides(tree: Marked, overrides: Sequence[str]) -> None:
    """Writes each override into the tree; of two for the same key, the later one holds."""
    for override in overrides:
        _apply(tree, override)


def _apply(tree: Marked, override: str) -> None:
    dotted, equals, text = override.partition("=")
    place = f"on the command line, {shown(override)}"
    names = dotted.strip().split(".")
    if not equals:
        raise UserError(f"{place}: an override needs a '='; write section.key=value, for example optim.lr=1e-3")
    if not all(names):
        raise UserError(f"{place}: {shown(dotted)} is not a key; write section.key=value, for example optim.lr=1e-3")
    value = parse_value(text, place, for_text=_takes_any_text(names, tree))
    section = tree
    for depth, name in enumerate(names):
        here = ".".join(names[:depth]) or "the recipe"
        if depth and section.value is None:
            section.value = {}
        if isinstance(section.value, list):
            if not name.isdecimal() or int(name) >= len(section.value):
                raise UserError(f"{place}: {shown(name)} is no entry of {here}, which has {len(section.value)}, "
                                f"counted from 0; write {here}.0.KEY=..., or the whole list as {here}=[{{...}}]")
            holder, key = section.value, int(name)
        elif isinstance(section.value, dict):
            holder, key = section.value, name
            if depth + 1 < len(names):
                holder.setdefault(key, Marked({}, place))
        else:
            raise UserError(f"{place}: {here} is a value ({shown(section.value)}), not a section, so it has no key "
                            f"{shown(name)}; write {here}=...")
        if depth + 1 == len(names):
            holder[key] = value
        section = holder[key]


def _takes_any_text(names: Sequence[str], tree: Marked) -> bool:
    """True where the schema has text and not a choice of words: blanks may be meant there."""
    kind, limits = Recipe, {}
    sections = sections_of(tree)
    for name in names:
        if typing.get_origin(kind) is tuple:
            kind, limits = typing.get_args(kind)[0], {}
        elif typing.get_origin(kind) is dict:
            kind, limits = typing.get_args(kind)[1], {}
        elif dataclasses.is_dataclass(kind) and name in kind.__dataclass_fields__:
            hints = typing.get_type_hints(kind) | (sections if kind is Recipe else {})
            kind, limits = hints[name], kind.__dataclass_fields__[name].metadata
        else:
            return False
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            kind = next(option for option in typing.get_args(kind) if option is not type(None))
    return kind is str and "choices" not in limits


def sections_of(tree: Marked) -> dict[str, type]:
    """What the sections of this recipe are, by its family; of an unknown family, which is refused later, lm's."""
    family = tree.value.get("family") if isinstance(tree.value, dict) else None
    return SECTIONS.get(family.value, SECTIONS["lm"]) if family and isinstance(family.value, str) else SECTIONS["lm"]

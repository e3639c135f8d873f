"""From a marked tree to the schema's dataclasses: unknown and missing keys, types, and limits of single fields."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.hints import nearest, shown
from dstrain.config.yaml_tree import Marked

LARGEST = 1e300
NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*(_[0-9]+)*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def build(kind: type, tree: Marked, dotted: str = "", sections: Mapping[str, type] = MappingProxyType({})) -> Any:
    """An instance of the dataclass `kind`; `dotted` is the section's name, empty for the recipe itself. `sections`:
    what some of its fields are in this recipe, of all that they may be."""
    here = dotted or "the recipe"
    if tree.value is None and dotted:
        tree = Marked({}, tree.place)
    if not isinstance(tree.value, dict):
        raise UserError(f"{tree.place}: {here} is {_shown_tree(tree)}, but must be a section; "
                        f"write keys and values, one `key: value` per line")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, item in tree.value.items():
        if key not in fields:
            raise UserError(f"{item.place}: unknown key {shown(key)} in {here}; {nearest(str(key), fields)}")
    hints = typing.get_type_hints(kind) | dict(sections)
    values = {}
    for name, field in fields.items():
        full_name = f"{dotted}.{name}" if dotted else name
        if name in tree.value:
            values[name] = _value(hints[name], tree.value[name], full_name)
            _check_limits(field, values[name], tree.value[name].place, full_name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{tree.place}: {full_name} is missing and has no default; "
                            f"add `{name}:` to {here}, or {full_name}=... on the command line")
        elif name in sections and dataclasses.is_dataclass(sections[name]):
            values[name] = build(sections[name], Marked({}, tree.place), full_name)
    return kind(**values)


def _value(hint: Any, tree: Marked, name: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if tree.value is None and type(None) in typing.get_args(hint):
            return None
        hint = _meant(hint, tree)
    if dataclasses.is_dataclass(hint):
        return build(hint, tree, name)
    if typing.get_origin(hint) is tuple:
        return _tuple(hint, tree, name)
    if typing.get_origin(hint) is dict:
        return _texts_by_name(tree, name)
    if hint is float:
        return _number(tree, name)
    if hint is int:
        return _whole_number(tree, name)
    wanted = {bool: "true or false", str: "text"}[hint]
    if not isinstance(tree.value, hint):
        remedy = "put it in quotes" if hint is str and tree.value is not None else f"write {wanted}"
        raise _wrong(tree, name, f"must be {wanted}; {remedy}")
    return tree.value


def _meant(hint: Any, tree: Marked) -> Any:
    """Of a union the kind that a value is: a section where it is one, else the plain kind."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind) == isinstance(tree.value, dict)), kinds[0])


def _tuple(hint: Any, tree: Marked, name: str) -> tuple:
    kinds = typing.get_args(hint)
    open_ended = kinds[-1] is Ellipsis
    if not isinstance(tree.value, list):
        example = "[{...}, ...]" if dataclasses.is_dataclass(kinds[0]) else "[1.0, ...]"
        raise _wrong(tree, name, f"must be a list; write {example}")
    if not open_ended and len(tree.value) != len(kinds):
        raise _wrong(tree, name, f"must have {len(kinds)} entries; write {len(kinds)}")
    if open_ended:
        kinds = kinds[:1] * len(tree.value)
    return tuple(_value(kind, item, f"{name}.{i}") for i, (kind, item) in enumerate(zip(kinds, tree.value)))


def _texts_by_name(tree: Marked, name: str) -> dict[str, str]:
    """A section whose keys are the user's own; a whole number stands for its digits."""
    if tree.value is None:
        return {}
    if not isinstance(tree.value, dict):
        raise _wrong(tree, name, "must be a section; write names and values, one `NAME: value` per line")
    whole = {key: Marked(str(item.value), item.place) if type(item.value) is int else item
             for key, item in tree.value.items()}
    return {key: _value(str, item, f"{name}.{key}") for key, item in whole.items()}


def _number(tree: Marked, name: str) -> float:
    """A float; YAML reads 6e-4, which lacks a dot, as text: it is meant as a number and taken as one."""
    value = tree.value
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(tree, name, "must be a number; write it like 6.0e-4")
    if not abs(value) < LARGEST:  # so is NaN
        raise _wrong(tree, name, "must be finite and below 1e300; write an ordinary number")
    return float(value)


def _whole_number(tree: Marked, name: str) -> int:
    """An int; 1e6 and 2.0 are whole numbers too."""
    value = tree.value
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(tree, name, "must be a whole number; write it without quotes, fraction and leading zeros")
    return value


def _check_limits(field: dataclasses.Field, value: Any, place: str, name: str) -> None:
    if value is None:
        return
    limits, tree = field.metadata, Marked(value, place)
    if "choices" in limits and value not in limits["choices"]:
        hint = nearest(value, limits["choices"]) if isinstance(value, str) else ""
        choices = ", ".join(map(str, limits["choices"]))
        hint = hint if hint.startswith("did") else "write one of them"
        raise _wrong(tree, name, f"must be one of: {choices}; {hint}")
    if "low" in limits and value < limits["low"]:
        raise _wrong(tree, name, f"must be at least {limits['low']}; write a larger number")
    if "above" in limits and value <= limits["above"]:
        raise _wrong(tree, name, f"must be above {limits['above']}; write a larger number")
    if "high" in limits and value > limits["high"]:
        raise _wrong(tree, name, f"must be at most {limits['high']}; write a smaller number")
    if "below" in limits and value >= limits["below"]:
        raise _wrong(tree, name, f"must be below {limits['below']}; write a smaller number")


def _wrong(tree: Marked, name: str, reason: str) -> UserError:
    return UserError(f"{tree.place}: {name} is {_shown_tree(tree)}, but {reason}")


def _shown_tree(tree: Marked) -> str:
    if isinstance(tree.value, dict):
        return f"a section with {', '.join(map(str, tree.value)) or 'nothing'}"[:100]
    return f"a list of {len(tree.value)}" if isinstance(tree.value, list) else shown(tree.value)

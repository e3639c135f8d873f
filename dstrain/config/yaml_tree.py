"""YAML as a tree in which every value knows its place, so that each error can name the file and the line.

yaml.safe_load would lose the lines, take the last of two equal keys without a word, read 010 as 8 and 1:30 as 90.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import yaml

from dstrain.config.errors import UserError
from dstrain.config.hints import one_line, shown

DECIMAL = re.compile(r"(?=.{1,40}$)[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
DEEPEST = 100
MOST_VALUES = 100_000
"""a recipe has a hundred values, five levels deep; without a limit, ten lines of aliases would be a billion values"""


@dataclass
class Marked:
    """A value and where it was written. Sections hold Marked values in a dict, lists in a list."""

    value: Any
    place: str


def parse_yaml(text: str, file: str) -> Marked:
    """The tree of one YAML document; places read `FILE, line N`."""
    def place_at_line(line: int) -> str:
        return f"{file}, line {line}"

    node = _composed(text, file, place_at_line)
    if node is None:
        raise UserError(f"{file}: the file is empty; a recipe has at least family, model, data, batch and run")
    return _marked(node, place_at_line, frozenset(), count(1))


def parse_value(text: str, place: str, for_text: bool = False) -> Marked:
    """The tree of a value that stands on the command line: it has one place, whatever its lines. `for_text`: where
    text is wanted, plain text is taken as it was typed; YAML would strip its blanks and drop what follows a #."""
    node = _composed(text, place, lambda line: place)
    if node is None:
        return Marked(None, place)
    tree = _marked(node, lambda line: place, frozenset(), count(1))
    return Marked(text, place) if for_text and isinstance(tree.value, str) and _is_plain(node, text) else tree


def mark(value: Any, place: str) -> Marked:
    """A tree from plain dicts and lists."""
    if isinstance(value, dict):
        return Marked({key: mark(item, place) for key, item in value.items()}, place)
    if isinstance(value, (list, tuple)):
        return Marked([mark(item, place) for item in value], place)
    return Marked(value, place)


def plain(tree: Marked) -> Any:
    """The tree's values without their places."""
    if isinstance(tree.value, dict):
        return {key: plain(item) for key, item in tree.value.items()}
    if isinstance(tree.value, list):
        return [plain(item) for item in tree.value]
    return tree.value


def place_of(tree: Marked, dotted: str) -> str:
    """The place of `section.key`, or of the innermost section on the way to it that was written."""
    for name in dotted.split("."):
        if isinstance(tree.value, dict) and name in tree.value:
            tree = tree.value[name]
        elif isinstance(tree.value, list) and name.isdecimal() and int(name) < len(tree.value):
            tree = tree.value[int(name)]
        else:
            break
    return tree.place


def _composed(text: str, place: str, place_at_line: Callable[[int], str]) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark_ = error.problem_mark or error.context_mark
        where = place_at_line(mark_.line + 1) if mark_ else place
        raise UserError(f"{where}: this is not valid YAML: {one_line(error.problem or error.context)}; "
                        f"look at the indentation, brackets and quotes there") from error
    except yaml.YAMLError as error:
        raise UserError(f"{place}: this is not valid YAML: {one_line(error)}; write plain text") from error
    except RecursionError as error:
        raise UserError(f"{place}: lists or sections are nested deeper than {DEEPEST} levels; close the brackets, "
                        f"and write fewer levels") from error


def _is_plain(node: yaml.Node, text: str) -> bool:
    """Neither quoted nor behind a tag, an anchor or a `---`: the value begins where the text does."""
    return node.style is None and text.lstrip().startswith(node.value[:1] or "!")


def _marked(node: yaml.Node, place_at_line: Callable[[int], str], open_nodes: frozenset[int],
            numbers: Iterator[int]) -> Marked:
    place = place_at_line(node.start_mark.line + 1)
    if next(numbers) > MOST_VALUES:
        raise UserError(f"{place}: there are more than {MOST_VALUES} values up to here, counted with what aliases "
                        f"(*name) stand for; write the few that are meant")
    if isinstance(node, yaml.ScalarNode):
        return Marked(_scalar(node, place), place)
    if id(node) in open_nodes:
        raise UserError(f"{place}: an alias (*name) stands inside what it names; write the values out")
    if len(open_nodes) == DEEPEST:
        raise UserError(f"{place}: lists or sections are nested deeper than {DEEPEST} levels; write fewer levels")
    open_nodes = open_nodes | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        return Marked([_marked(item, place_at_line, open_nodes, numbers) for item in node.value], place)
    section: dict[str, Marked] = {}
    for key_node, value_node in node.value:
        key_place = place_at_line(key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{key_place}: a key must be a word, not a list or a section; write `key: value`")
        key = key_node.value
        if key in section:
            raise UserError(f"{key_place}: {shown(key)} stands twice in this section (first: {section[key].place}); "
                            f"keep one of them")
        section[key] = Marked(_marked(value_node, place_at_line, open_nodes, numbers).value, key_place)
    return Marked(section, place)


def _scalar(node: yaml.ScalarNode, place: str) -> Any:
    """Null, true, false, decimal numbers and text; what YAML 1.1 would make of 010, 1:30 or a date stays text."""
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind == "null":
        return None
    if kind == "bool":
        if text.lower() not in BOOLEANS:  # a !!bool stands before it
            raise UserError(f"{place}: {shown(text)} is tagged !!bool and is none; write true or false, without a tag")
        return BOOLEANS[text.lower()]
    if kind == "int" and DECIMAL.fullmatch(text):
        return int(text)
    if kind == "float" and ":" not in text:
        try:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError as error:
            raise UserError(f"{place}: {shown(text)} is not a number; write it like 6.0e-4, or in quotes where text "
                            f"is meant") from error
    return text

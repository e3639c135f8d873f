"""The recipe that a training's arguments name, for scripts that start it: loaded and checked, without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe


def recipe_of(arguments: Sequence[str]) -> Recipe:
    """`arguments` as for `dstrain train`; what does not concern the recipe (--fresh and the like) is passed over."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--deepspeed_config")
    parser.add_argument("--local_rank", "--local-rank")
    options, rest = parser.parse_known_args(arguments)
    names = [argument for argument in rest if not argument.startswith("-")]
    if not names:
        raise UserError("no recipe is named; give a name from `dstrain recipes`, or the path of a YAML file")
    return load_recipe(names[0], names[1:], options.deepspeed_config)


def answer(about: Callable[[Recipe], Sequence[str]]) -> int:
    """Prints lines about the recipe of this process's arguments; 2 for a user's mistake, said in a line."""
    try:
        lines = about(recipe_of(sys.argv[1:]))
    except UserError as mistake:
        print(f"dstrain: {mistake}", file=sys.stderr)
        return 2
    for line in lines:
        print(line)
    return 0

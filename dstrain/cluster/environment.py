"""A recipe's environment section, for the scripts that start ranks: `python -m dstrain.cluster.environment RECIPE
[section.key=value ...]` prints a line NAME=value for each variable."""

from __future__ import annotations

import sys

from dstrain.cluster.recipe_arguments import answer

if __name__ == "__main__":
    sys.exit(answer(lambda recipe: [f"{name}={value}" for name, value in recipe.environment.items()]))

"""Prints the run folder that a recipe names: `python -m dstrain.cluster.run_path RECIPE [section.key=value ...]`."""

from __future__ import annotations

import os
import sys

from dstrain.cluster.recipe_arguments import answer

if __name__ == "__main__":
    sys.exit(answer(lambda recipe: [os.path.join(recipe.run.dir, recipe.run.name)]))

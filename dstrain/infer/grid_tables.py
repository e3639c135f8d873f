"""Scores of puzzles as tables for a reader: by category, and by puzzle."""

from __future__ import annotations

from collections.abc import Sequence


def in_words(scores: dict) -> list[str]:
    """Of what `grid_scores.scores_of` gives."""
    return ["", *by_category(scores["by_category"]), "", *by_puzzle(scores["puzzles"])]


def by_category(categories: dict[str, dict]) -> list[str]:
    shares = ("grid_accuracy", "grid_accuracy_2", "cell_accuracy", "copy_baseline")
    return [*_table(("category", "queries", "right", "in 2", "cells", "copying"),
                    [(category, f"{scores['queries']:,}", *(f"{scores[share]:.4f}" for share in shares))
                     for category, scores in categories.items()], texts=1),
            "  right: shares of whole grids, in one attempt and in two; copying: of queries whose answer is the input"]


def by_puzzle(puzzles: Sequence[dict]) -> list[str]:
    return _table(("puzzle", "category", "queries", "right", "in 2", "cells right", "of", "right shape"),
                  [(one["name"], one["category"], *(f"{one[count]:,}" for count in (
                      "queries", "right", "right_in_2", "cells_right", "cells", "shapes"))) for one in puzzles],
                  texts=2)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> list[str]:
    """The first columns, so many, are texts and stand to the left; the others are numbers."""
    widths = [max(map(len, column)) for column in zip(heads, *lines)]
    return ["  " + "  ".join(cell.ljust(width) if place < texts else cell.rjust(width)
                             for place, (cell, width) in enumerate(zip(line, widths))).rstrip()
            for line in (heads, *lines)]

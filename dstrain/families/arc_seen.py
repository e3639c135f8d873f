"""What a reader is shown of how puzzles are answered: pictures of some at each validation, tables of all in `eval`."""

from __future__ import annotations

import torch

from dstrain.config.schema import Recipe
from dstrain.data.grids.grid_validation import valid_questions
from dstrain.infer import grid_tables
from dstrain.infer.grid_voting import answer_questions
from dstrain.train.grid_picture import Asked, puzzle_picture
from dstrain.train.picture import Drawn

ABOUT = ("SHOWN: demonstrations, input over output. ASKED: the query. FIRST and SECOND: the two attempts; RIGHT has a "
         "green frame, WRONG a red one and a dot in each wrong cell. Puzzle {name} ({category}).")


def pictures(model: torch.nn.Module, recipe: Recipe) -> dict[str, Drawn]:
    """The first queries of as many validation puzzles as `log.samples`, of each category before a second one."""
    questions = _mixed(valid_questions(recipe))[:recipe.log.samples]
    found = answer_questions(model, questions, recipe, recipe.valid.views)
    return {f"puzzles/{number}": puzzle_picture(
        question.task.demonstrations, [Asked(question.query, [candidate.grid for candidate in verdict.attempts])],
        ABOUT.format(name=question.task.name, category=question.task.category))
        for number, (question, verdict) in enumerate(zip(questions, found, strict=True), start=1)}


def scores_in_words(recipe: Recipe, scores: dict) -> list[str]:
    """An own class that writes nothing has no such scores."""
    return grid_tables.in_words(scores) if "puzzles" in scores else []


def _mixed(questions: list) -> list:
    """The first of each category, then the second of each, and so on."""
    before: dict[str, int] = {}
    ranks = []
    for question in questions:
        ranks.append(before.get(question.task.category, 0))
        before[question.task.category] = ranks[-1] + 1
    return [question for _, question in sorted(zip(ranks, questions, strict=True), key=lambda pair: pair[0])]

"""Answering a question in several views and letting them vote: the two best different answers are its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from dstrain.config.schema import Recipe
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.prompt import Prompt, prompt_of
from dstrain.data.grids.task import Grid
from dstrain.data.grids.views import View, views_to_answer
from dstrain.data.hashing import VIEWS
from dstrain.infer.grid_answers import Answered, GridWriter, answer_prompts

ATTEMPTS = 2


class Candidate(NamedTuple):
    grid: Grid
    votes: int
    """views that gave it"""
    logprob: float
    """mean over these views of the answer's log p"""


class Verdict(NamedTuple):
    """What the views say to one question."""

    attempts: list[Candidate]
    """the best first: two, or fewer where the views agree or have no answer"""
    ties: int
    """its views in which a choice hangs on rounding"""
    tokens: int
    """that were written, in all views"""
    views: int


def answer_questions(model: nn.Module & GridWriter, questions: Sequence[Question], recipe: Recipe, views: int
                     ) -> list[Verdict]:
    """Each question's verdict, answered in so many views."""
    seen = views_of(recipe, views)
    answers = answer_prompts(model, prompts_of(questions, seen, recipe), recipe.model.kind)
    return verdicts(seen, answers)


def views_of(recipe: Recipe, count: int) -> list[View]:
    """The puzzle as it is, and then others of those that the model was trained on; the same for every question."""
    return views_to_answer(count, recipe.data.symmetries, recipe.data.colours, VIEWS, recipe.run.seed)


def prompts_of(questions: Sequence[Question], views: Sequence[View], recipe: Recipe) -> list[Prompt | None]:
    """Question by question, each in every view."""
    return [prompt_of(question, view, recipe.data, recipe.model.kind, recipe.batch.length)
            for question in questions for view in views]


def verdicts(views: Sequence[View], answers: Sequence[Answered]) -> list[Verdict]:
    """Of the answers to `prompts_of`."""
    return [_verdict(views, answers[first:first + len(views)]) for first in range(0, len(answers), len(views))]


def ranked(grids: Sequence[tuple[Grid, float]]) -> list[Candidate]:
    """(grid, log p) of each answer -> the different grids: those with most votes first, of equal ones those with the
    greater mean log p, and then in the order of the answers."""
    voices: dict[tuple, list[tuple[Grid, float]]] = {}
    for grid, logprob in grids:
        voices.setdefault((grid.shape, grid.tobytes()), []).append((grid, logprob))
    candidates = [Candidate(of_one[0][0], len(of_one), sum(logprob for _, logprob in of_one) / len(of_one))
                  for of_one in voices.values()]
    return sorted(candidates, key=lambda candidate: (-candidate.votes, -candidate.logprob))


def _verdict(views: Sequence[View], answers: Sequence[Answered]) -> Verdict:
    seen_back = [(view.back(answer.grid), answer.logprob) for view, answer in zip(views, answers, strict=True)
                 if answer.grid is not None]
    return Verdict(ranked(seen_back)[:ATTEMPTS], sum(answer.ties > 0 for answer in answers),
                   sum(answer.tokens for answer in answers), len(views))

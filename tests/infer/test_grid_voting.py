"""Several views of one question vote for its two attempts."""

from __future__ import annotations

import numpy as np
import pytest
from grid_help import KINDS, grid, model_of, questions_of, recipe_of, task_of

from dstrain.data.grids.views import View
from dstrain.infer.grid_answers import Answered, answer_prompts
from dstrain.infer.grid_voting import answer_questions, prompts_of, ranked, verdicts, views_of

A, B, C = grid("1"), grid("2"), grid("1", "1")


def test_votes_come_first_and_then_the_mean_log_p():
    """A has two votes, B and C one each; C's is the more likely one, and more likely than A's."""
    found = ranked([(A, -4.0), (B, -3.0), (C, -1.0), (A, -6.0)])
    assert [candidate.grid.tolist() for candidate in found] == [A.tolist(), C.tolist(), B.tolist()]
    assert [candidate[1:] for candidate in found] == [(2, -5.0), (1, -1.0), (1, -3.0)]


def test_of_equal_candidates_the_first_answer_comes_first():
    assert [candidate.grid.tolist() for candidate in ranked([(B, -1.0), (A, -1.0)])] == [B.tolist(), A.tolist()]
    assert ranked([]) == []


def test_grids_of_equal_cells_in_another_shape_are_different():
    assert len(ranked([(grid("11"), -1.0), (grid("1", "1"), -1.0)])) == 2


def test_an_answer_is_seen_back_before_it_votes():
    """12 over 34. The other view transposes and turns once, and exchanges 1 and 4: seen back it is the same."""
    other = View(5, (0, 4, 2, 3, 1, 5, 6, 7, 8, 9))
    truth = grid("12", "34")
    answers = [Answered(truth, -2.0, 7, 1), Answered(other.of(truth), -4.0, 7, 0)]
    assert not np.array_equal(answers[1].grid, truth)
    verdict, = verdicts([View(), other], answers)
    assert len(verdict.attempts) == 1 and np.array_equal(verdict.attempts[0].grid, truth)
    assert verdict.attempts[0][1:] == (2, -3.0) and (verdict.ties, verdict.tokens) == (1, 14)


def test_a_view_without_an_answer_has_no_vote_and_there_are_two_attempts_at_most():
    views = [View(number) for number in range(4)]
    answers = [Answered(None, -1.0, 9, 0), Answered(A, -3.0, 3, 0), Answered(B, -2.0, 3, 0), Answered(C, -9.0, 5, 0)]
    none, some = verdicts(views, [Answered()] * 4 + answers)
    assert none.attempts == [] and [candidate.grid.tolist() for candidate in some.attempts] == [B.tolist(), A.tolist()]


def test_the_puzzle_as_it_is_is_the_first_view_and_the_others_are_as_in_training():
    views = views_of(recipe_of("decoder"), 8)
    assert views[0] == View() and len(set(views)) == 8 and all(view.colours[0] == 0 for view in views)
    assert views_of(recipe_of("decoder"), 8) == views and views_of(recipe_of("decoder"), 3) == views[:3]
    assert {view.colours for view in views_of(recipe_of("decoder", colours="none"), 8)} == {tuple(range(10))}
    assert views_of(recipe_of("decoder", colours="none", symmetries=False), 8) == [View()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_answered_the_same_whatever_is_asked_beside_it(kind):
    model, recipe = model_of(kind), recipe_of(kind, length=130)
    questions = questions_of(*(task_of(f"{n}", (f"{n}1", "1"), (f"{n}2 33", None)) for n in range(5)))
    together = answer_questions(model, questions, recipe, 3)
    for question, verdict in zip(questions, together, strict=True):
        alone, = answer_questions(model, [question], recipe, 3)
        assert [candidate.grid.tolist() for candidate in alone.attempts] == [
            candidate.grid.tolist() for candidate in verdict.attempts] and alone[1:] == verdict[1:]
    once = answer_questions(model, questions, recipe, 1)
    plain = answer_prompts(model, prompts_of(questions, [View()], recipe), kind)
    assert [verdict.attempts[0].grid.tolist() for verdict in once if verdict.attempts] == [
        answer.grid.tolist() for answer in plain if answer.grid is not None]

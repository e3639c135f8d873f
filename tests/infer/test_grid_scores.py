"""Scores of answers to puzzles: right by hand, of known answers alone, and the same for any number of ranks."""

from __future__ import annotations

import contextlib
import math
import threading
from types import SimpleNamespace

import pytest
import torch
from grid_help import example, grid, model_of, questions_of, recipe_of, task_of

from dstrain.config.errors import UserError
from dstrain.data.grids.row import CHAMPION, DECODER
from dstrain.infer import grid_answers
from dstrain.infer import grid_scores as module
from dstrain.infer.grid_scores import Marks, generated_grid_scores, marks_of, scores_of
from dstrain.infer.grid_tables import in_words
from dstrain.infer.grid_voting import Candidate, Verdict, answer_questions
from dstrain.runtime.dist import lone_rank


def test_a_right_answer_a_wrong_cell_and_a_wrong_shape_by_hand():
    """The truth 12/34 of the input 10/30: two cells are changed, two are the input's."""
    query = example("10 30", "12 34")
    whole = Marks(cells=4, changed=2, copied_cells=2)
    right = whole._replace(answered=1, right=1, right_in_2=1, shapes=1, cells_right=4, changed_found=2)
    assert marks_of(query, [grid("12", "34")]) == right
    assert marks_of(query, [grid("12", "30")]) == right._replace(right=0, right_in_2=0, cells_right=3, changed_found=1)
    assert marks_of(query, [query.input]) == right._replace(right=0, right_in_2=0, cells_right=2, changed_found=0)
    assert marks_of(query, [grid("1")]) == right._replace(right=0, right_in_2=0, shapes=0, cells_right=1,
                                                          changed_found=0)
    assert marks_of(query, []) == whole


def test_a_larger_answer_that_holds_the_truth_is_wrong_in_shape_and_right_in_cells():
    query = example("5", "12 34")
    marks = marks_of(query, [grid("129", "349", "999")])
    assert (marks.right, marks.shapes, marks.cells_right, marks.changed_found, marks.changed) == (0, 0, 4, 4, 4)


def test_the_second_attempt_counts_for_whole_grids_alone_and_a_third_not_at_all():
    query = example("0", "7")
    marks = marks_of(query, [grid("1"), grid("7")])
    assert (marks.right, marks.right_in_2, marks.cells_right, marks.shapes) == (0, 1, 0, 1)
    assert marks_of(query, [grid("1"), grid("2"), grid("7")]).right_in_2 == 0


def test_a_query_that_is_its_own_answer_is_the_copy_baselines():
    query = example("12", "12")
    marks = marks_of(query, [])
    assert (marks.copied, marks.copied_cells, marks.changed, marks.cells, marks.right) == (1, 2, 0, 2, 0)
    assert marks_of(example("123", "12"), []).copied == 0 and marks_of(example("123", "12"), []).copied_cells == 2


def verdict(*attempts: str) -> Verdict:
    return Verdict([Candidate(grid(*attempt.split()), 1, -1.0) for attempt in attempts], 0, 0, 1)


FLIP = task_of("flip/1", ("12", "21"), ("34", "43"), ("11", "11"), queries=2, category="flip")
ONE = task_of("one", ("123 456", "1"), ("555 555", "5"), category="smaller")


def test_scores_are_sums_over_sums_and_two_attempts_count_for_each_query():
    """34 -> 43: only the second attempt is right. 11 -> 11: right, and so is copying. 555/555 -> 5: a 1 x 2 answer."""
    scores = scores_of(questions_of(FLIP, ONE), [verdict("34", "43"), verdict("11", "12"), verdict("55")])
    assert {name: scores[name] for name in scores if name not in ("by_category", "puzzles")} == {
        "grid_accuracy": 1 / 3, "grid_accuracy_2": 2 / 3, "cell_accuracy": 3 / 5, "copy_baseline": 1 / 3,
        "shape_accuracy": 2 / 3, "changed_found": 0.0, "copy_cell_accuracy": 3 / 5, "answered": 1.0}
    assert scores["by_category"] == {
        "flip": {"queries": 2, "grid_accuracy": 0.5, "grid_accuracy_2": 1.0, "cell_accuracy": 0.5,
                 "copy_baseline": 0.5},
        "smaller": {"queries": 1, "grid_accuracy": 0.0, "grid_accuracy_2": 0.0, "cell_accuracy": 1.0,
                    "copy_baseline": 0.0}}
    flip, one = scores["puzzles"]
    assert (flip["name"], flip["queries"], flip["right"], flip["right_in_2"]) == ("flip/1", 2, 1, 2)
    assert (flip["cells_right"], flip["cells"], flip["shapes"]) == (2, 4, 2)
    assert (one["category"], one["cells_right"], one["cells"], one["shapes"]) == ("smaller", 1, 1, 0)


def test_a_share_of_nothing_is_left_out_and_what_got_no_answer_is_said():
    scores = scores_of(questions_of(task_of("same", ("1", "1"), ("2", "2"))), [verdict()])
    assert "changed_found" not in scores and scores["answered"] == 0.0 and scores["copy_baseline"] == 1.0


def test_a_table_has_a_line_for_each_category_and_for_each_puzzle():
    lines = in_words(scores_of(questions_of(FLIP, ONE), [verdict("34", "43"), verdict("11", "12"), verdict("55")]))
    assert [line.split() for line in lines if line.startswith("  flip")] == [
        ["flip", "2", "0.5000", "1.0000", "0.5000", "0.5000"], ["flip/1", "flip", "2", "1", "2", "2", "4", "2"]]
    assert ["one", "smaller", "1", "0", "0", "1", "1", "0"] in [line.split() for line in lines]


QUESTIONS = questions_of(FLIP, ONE, task_of("unknown", ("1", "2"), ("3", None)),
                         *(task_of(f"t{n}", (f"{n}1", f"1{n}"), (f"{n}2 33", f"2{n} 33")) for n in range(7)))
RECIPE = recipe_of(DECODER, length=130, views=3)


class Thread:
    """One rank of several, each a thread: what generated_grid_scores asks of runtime.dist.Ranks."""

    def __init__(self, rank: int, world: int, met: threading.Barrier, slots: list):
        self.rank, self.world, self.first, self.device = rank, world, rank == 0, torch.device("cpu")
        self._met, self._slots, self.rounds = met, slots, 0
        self.pulse = SimpleNamespace(enter=lambda *words: None)

    def gather(self, thing):
        self._slots[self.rank] = thing
        self._met.wait(30)
        things = list(self._slots)
        self._met.wait(30)
        return things

    def sum(self, tensor):
        self.rounds += 1
        return sum(self.gather(tensor))

    def share(self, thing):
        return self.gather(thing)[0]

    together = contextlib.contextmanager(lambda self, what: iter([None]))


def on_ranks(world: int, alone: bool, must_leave=lambda rank, rounds: False) -> list:
    met, slots, results = threading.Barrier(world), [None] * world, [None] * world
    ranks = [Thread(rank, world, met, slots) for rank in range(world)]

    def of(rank):
        results[rank.rank] = generated_grid_scores(model_of(DECODER, dtype=torch.float32), QUESTIONS, RECIPE, rank,
                                                   alone, lambda: must_leave(rank.rank, rank.rounds))

    threads = [threading.Thread(target=of, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def fives(monkeypatch):
    """Batches of 5 rows: 10 questions in 3 views are six of them."""
    monkeypatch.setattr(grid_answers, "BATCH_ROWS", 5)


def test_scores_do_not_depend_on_the_number_of_ranks_to_the_bit(fives):
    alone = generated_grid_scores(model_of(DECODER, dtype=torch.float32), QUESTIONS, RECIPE, lone_rank(), True)
    assert alone["answered"] > 0.0 and sum(one["queries"] for one in alone["puzzles"]) == 10
    for world in (2, 4):
        assert on_ranks(world, True) == [alone] * world
    assert on_ranks(2, False) == [alone] * 2


def test_a_rank_answers_its_share_of_the_batches_alone_and_all_of_them_together(fives, monkeypatch):
    rows, inner = [], module.answer_prompts
    monkeypatch.setattr(module, "answer_prompts", lambda model, some, kind: rows.append(len(some)) or inner(
        model, some, kind))
    on_ranks(2, True)
    assert sum(rows) == 30
    rows.clear()
    on_ranks(2, False)
    assert sum(rows) == 60


def test_all_ranks_break_off_together_when_one_must_leave(fives):
    assert on_ranks(2, True, lambda rank, rounds: rank == 1) == [None] * 2
    assert on_ranks(2, False, lambda rank, rounds: rank == 1 and rounds == 2) == [None] * 2
    assert None not in on_ranks(2, True, lambda rank, rounds: rounds > 3)


def test_scores_are_of_the_verdicts_of_the_questions_whose_answers_are_known():
    model, recipe = model_of(CHAMPION), recipe_of(CHAMPION, length=130, views=2)
    known = [question for question in QUESTIONS if question.query.output is not None]
    assert len(known) == len(QUESTIONS) - 1
    expected = scores_of(known, answer_questions(model, known, recipe, 2))
    assert generated_grid_scores(model, QUESTIONS, recipe, lone_rank(), True) == expected
    with pytest.raises(UserError, match="data.valid holds no puzzle whose answer is known"):
        generated_grid_scores(model, questions_of(task_of("unknown", ("1", "2"), ("3", None))), recipe, lone_rank(),
                              True)


def test_answers_that_are_right_score_one_and_are_what_the_model_writes():
    """The truths are replaced by the model's own answers."""
    model = model_of(DECODER)
    found = answer_questions(model, QUESTIONS, RECIPE, 3)
    own = [question._replace(query=question.query._replace(output=verdict.attempts[0].grid))
           for question, verdict in zip(QUESTIONS, found, strict=True) if verdict.attempts]
    scores = generated_grid_scores(model, own, RECIPE, lone_rank(), True)
    assert len(own) > 5 and scores["grid_accuracy"] == scores["cell_accuracy"] == scores["shape_accuracy"] == 1.0
    assert math.isclose(sum(one["right"] for one in scores["puzzles"]), len(own))


def test_every_mode_is_restored_whatever_happens():
    model = model_of(DECODER).train()
    model.embed_dropout.eval()
    modes = [module.training for module in model.modules()]
    assert generated_grid_scores(model, QUESTIONS, RECIPE, lone_rank(), True, lambda: True) is None
    assert [module.training for module in model.modules()] == modes
    model.logits = lambda hidden: 1 / 0
    with pytest.raises(ZeroDivisionError):
        generated_grid_scores(model, QUESTIONS, RECIPE, lone_rank(), True)
    assert [module.training for module in model.modules()] == modes

"""The doctor on puzzles: green for all three kinds of models, and each fault that puzzles can have is found."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from dstrain.config.arc import PuzzleSource
from dstrain.config.load import load_recipe
from dstrain.data.grids.tokens import END
from dstrain.doctor.answered import Puzzles
from dstrain.doctor.case import Case
from dstrain.doctor.examined import broke
from dstrain.doctor.faults.in_training import FAULTS, OF_PUZZLES
from dstrain.doctor.finding import NotProven
from dstrain.doctor.proofs import chance, continuations, resume
from dstrain.doctor.registry import PROOFS
from dstrain.doctor.warnings import sizes, text
from dstrain.doctor.warnings.look import look_at
from dstrain.infer import grid_answers

KINDS = ("champion", "decoder", "encoder-decoder")
OF_THE_MODEL = ("labels", "arguments", "padding", "neighbours", "targets", "first_loss", "by_heart", "continuations")
OF_DATA_AND_MASKS = ("labels not shifted", "no start token in rows", "ends never scored", "padding scored in rows",
                     "no end between documents", "validated twice", "shuffled with replacement",
                     "sources beside other targets", "future seen", "segments swallowed", "source lengths swallowed",
                     "padding attended across", "padded width counts", "prompts mixed", "generate attends to padding",
                     "cached slots lost", "average of batches")
TRIED = [fault for fault in FAULTS if fault in OF_PUZZLES or fault.name in OF_DATA_AND_MASKS]


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    with closing(Case.of(load_recipe("arc-quickstart", [f"model.kind={request.param}", "model.preset=tiny"]))) as small:
        small.full = replace(small.full, batch=replace(small.full.batch, length=320))  # its long row, too, is short
        yield small


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_puzzles_are_proven(case, name):
    finding = PROOFS[name].prove(case)
    assert finding.passed, finding


@pytest.mark.parametrize("name", ("update", "logged"))
@pytest.mark.parametrize("case", ["decoder"], indirect=True)
def test_steps_on_rows_that_are_cut_anywhere_and_validations_of_answers_alone_are_proven(case, name):
    """Of a decoder: a row that was cut in its first output scores nothing, a validation nothing that is shown."""
    finding = PROOFS[name].prove(case)
    assert finding.passed, finding


@pytest.mark.parametrize("fault", TRIED, ids=lambda fault: fault.name.replace(" ", "_"))
def test_each_fault_of_puzzles_and_of_their_masks_is_caught(case, monkeypatch, fault):
    monkeypatch.setattr("dstrain.doctor.proofs.overlapping_puzzles.MOST_MADE", 100)
    try:
        finding = fault.attempt(case)
    except NotProven as reason:
        assert str(reason).startswith("the family arc has"), reason
        pytest.skip(str(reason))
    assert not finding.passed and finding.cause and not broke(finding), finding


def test_the_context_is_padding_behind_each_grid_and_where_there_is_none():
    """Of the first row the last demonstration was taken away."""
    with closing(Case.of(load_recipe("arc-quickstart"))) as case:
        subject = case.subject()
    lengths_BG = subject.batch["context_lengths_BG"]
    there_BG = (~subject.context_padding_BX).view(*lengths_BG.shape, -1).sum(2)
    assert torch.equal(there_BG, lengths_BG) and lengths_BG[0, -2:].tolist() == [0, 0]


def test_a_choice_that_is_not_the_best_is_found_by_the_whole_pass(case, monkeypatch):
    """A search that never takes the best id, but the best but one of those that are allowed."""
    model = continuations.louder_model(case, case.tokenizer()).double()
    rows = Puzzles(case)
    right, = rows.cached(model, rows.watched[:1])
    assert continuations.differences([right], [rows.uncached(model, rows.watched[0])])[0] < 1e-9
    inner = grid_answers._Answers.choose

    def second_best(self, logits_BV, rounding):
        best_BV = logits_BV.masked_fill(~self._spelling.allowed_BV(), -torch.inf)
        return inner(self, logits_BV.scatter(1, best_BV.argmax(1, keepdim=True), -1e4), rounding)

    monkeypatch.setattr(grid_answers._Answers, "choose", second_best)
    wrong, = rows.cached(model, rows.watched[:1])
    found = rows.uncached(model, rows.watched[0])
    assert len(found.ids) == 1 and found.ids != wrong.ids[:1]


def test_an_answer_that_stops_before_its_end_is_another_one(case, monkeypatch):
    model = continuations.louder_model(case, case.tokenizer()).double()
    rows = Puzzles(case)
    monkeypatch.setattr(rows, "cached", lambda *_: [
        replace(found, ids=found.ids[:2]) for found in Puzzles.cached(rows, model, rows.watched[:1])])
    found = rows.uncached(model, rows.watched[0])
    assert len(found.ids) == 3 and found.ids[-1] == END


def test_a_puzzle_as_long_as_a_row_leaves_room_for_its_answer(case):
    rows = Puzzles(case)
    row, asked = rows.as_long_as(300)
    room = asked if case.recipe.model.kind == "decoder" else 0
    assert 300 - room - 80 <= row.size(case.recipe.model.kind) <= 300 - room


@pytest.mark.parametrize("case", ["champion"], indirect=True)
def test_figures_count_questions_and_leave_words_out(case, tmp_path):
    look = look_at(replace(case.full, data=case.recipe.data), case, tmp_path)
    epochs = sizes.figures(look)[1]
    questions = chance._documents(case.recipe)
    assert f"of {questions} questions, each time in another symmetry and colours" in epochs.figure
    assert [figure.name for figure in text.figures(look)] == ["rows"]


def test_ended_epochs_are_counted_by_questions(tmp_path):
    """7 questions given of 3: two epochs have ended."""
    (tmp_path / "step_6").mkdir()
    (tmp_path / "step_6/state.json").write_text('{"place": {"sources": [{"given": 7}]}}')
    assert resume.epochs_ended(tmp_path, (6,), 3) == 2


def test_overlap_looks_at_files_and_says_what_it_found(tmp_path, monkeypatch):
    """The same four small tasks on both sides, and on the other side none."""
    monkeypatch.chdir(tmp_path)
    grids = np.arange(9).reshape(3, 3)
    for name, shift in (("one", 0), ("two", 1)):
        pairs = [{"input": ((grids + shift) * (n + 1) % 10).tolist(),
                  "output": ((grids * grids + shift + n) % 7).tolist()} for n in range(4)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"train": pairs[:3], "test": pairs[3:]}))
    with closing(Case.of(load_recipe("arc-quickstart", ["data.train=[{path: one.json}]",
                                                        "data.valid=[{path: two.json}]"]))) as case:
        assert PROOFS["overlap"].prove(case).passed
        both = replace(case.full.data, train=(*case.full.data.train, PuzzleSource(path=str(tmp_path / "two.json"))))
        finding = PROOFS["overlap"].prove(replace(case, full=replace(case.full, data=both)))
    assert not finding.passed and finding.figure.startswith("1 of 1 tasks of data.valid are in data.train"), finding

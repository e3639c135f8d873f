"""`dstrain solve` on the command line: the submission, what is said, where it may be written, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import pytest

from dstrain.__main__ import main
from dstrain.commands import solve
from dstrain.commands.solve import file_name
from dstrain.config.arc import PuzzleData
from dstrain.config.errors import UserError
from dstrain.config.translate import TranslateModel
from dstrain.data.grids.row import ENCODER_DECODER
from dstrain.infer.grid_voting import views_of
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.grid_ids import VOCABULARY
from dstrain.nn.init import fill_initial


def trained(length: int = 40):
    """What load_trained gives, of a small model, and no run folder."""
    settings = TranslateModel(width=16, heads=2, encoder_layers=1, decoder_layers=1, ff=32)
    model = fill_initial(Seq2Seq(settings, VOCABULARY, VOCABULARY, True, length), seed=1)
    recipe = SimpleNamespace(data=PuzzleData(train=()), model=SimpleNamespace(kind=ENCODER_DECODER),
                             batch=SimpleNamespace(length=length), run=SimpleNamespace(seed=1))
    return SimpleNamespace(recipe=recipe, trainee=SimpleNamespace(model=model))


class Copies:
    """Answers with the input; with what `other` says in views of odd number; with nothing where a 9 is asked."""

    def __init__(self, other=None):
        self.other, self.asked = other, []

    def __call__(self, model, prompts, kind):
        from dstrain.data.grids.tokens import grid_of
        from dstrain.infer.grid_answers import Answered

        found = []
        for number, prompt in enumerate(prompts):
            grid = grid_of(prompt.row.query)
            self.asked.append(grid.tolist())
            views = views_of(trained().recipe, 8)
            if views[number % len(views)].back(grid)[0, 0] == 9:
                found.append(Answered(None, -9.0, 5, 0))
            else:
                found.append(Answered(self.other if self.other is not None and number % 2 else grid, -1.0, 5, 0))
        return found


FLIP = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}, {"input": [[3, 4]], "output": [[4, 3]]}],
        "test": [{"input": [[5, 6]], "output": [[6, 5]]}, {"input": [[7, 7]], "output": [[7, 7]]}]}
UNKNOWN = {"train": [{"input": [[1, 1]], "output": [[2, 2]]}], "test": [{"input": [[9]]}]}


@pytest.fixture
def spoken(monkeypatch, capsys, tmp_path):
    """The command in this process, in a folder with two tasks: exit code, what it prints, what it says beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(solve, "load_trained", lambda *_: trained())
    monkeypatch.setattr("dstrain.infer.grid_voting.answer_prompts", Copies())
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "flip.json").write_text(json.dumps(FLIP))
    (tmp_path / "tasks" / "unknown.json").write_text(json.dumps(UNKNOWN))

    def act(*arguments: str) -> tuple[int, str, str]:
        code = main(["solve", "runs/x", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return act


def test_the_submission_has_two_attempts_for_each_query_of_each_task(spoken, tmp_path):
    """One answer stands twice, and where there is none a cell of 0 stands."""
    code, out, said = spoken("--tasks", "tasks")
    assert code == 0 and out.startswith("submission.json: written\n")
    assert json.loads((tmp_path / "submission.json").read_text()) == {
        "flip": [{"attempt_1": [[5, 6]], "attempt_2": [[5, 6]]}, {"attempt_1": [[7, 7]], "attempt_2": [[7, 7]]}],
        "unknown": [{"attempt_1": [[0]], "attempt_2": [[0]]}]}
    assert re.fullmatch(r"\(2 tasks, 3 queries in 8 views each, 120 tokens in \d+\.\d s; 1 query without an answer: a "
                        r"grid of one cell, 0, stands for it\)\n", said)


def test_two_different_answers_are_two_attempts_with_the_puzzle_as_it_is_first(spoken, tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setattr("dstrain.infer.grid_voting.answer_prompts", Copies(np.array([[0, 0, 0]], np.uint8)))
    monkeypatch.setattr("dstrain.infer.grid_voting.views_of", lambda recipe, count: views_of(recipe, 1) * count)
    assert spoken("--tasks", "tasks/flip.json", "--views", "2")[0] == 0
    assert json.loads((tmp_path / "submission.json").read_text())["flip"][0] == {
        "attempt_1": [[5, 6]], "attempt_2": [[0, 0, 0]]}


def test_scores_are_of_the_answers_that_are_known_by_category_and_by_puzzle(spoken):
    """56 -> 65 is wrong when copied, 77 -> 77 right; nobody says the third."""
    lines = [line.split() for line in spoken("--tasks", "tasks")[1].splitlines()]
    assert "2 queries whose answers are known:".split() in lines
    for line in ("grid_accuracy 0.5000", "cell_accuracy 0.5000", "copy_baseline 0.5000", "changed_found 0.0000",
                 "same size 2 0.5000 0.5000 0.5000 0.5000", "flip same size 2 1 1 2 4 2"):
        assert line.split() in lines
    assert not any("unknown" in line for line in lines)


def test_without_a_known_answer_there_is_no_table(spoken):
    assert spoken("--tasks", "tasks/unknown.json")[1] == "submission.json: written\n"


def test_tasks_are_a_folder_a_file_or_a_pattern(spoken, tmp_path):
    for pattern, names in (("tasks", 2), ("tasks/", 2), ("tasks/*.json", 2), ("tasks/flip.json", 1)):
        assert spoken("--tasks", pattern)[0] == 0
        assert len(json.loads((tmp_path / "submission.json").read_text())) == names
    (tmp_path / "a[b]").mkdir()
    (tmp_path / "a[b]" / "x.json").write_text(json.dumps(FLIP))
    assert spoken("--tasks", "a[b]")[0] == 0


def test_what_stands_there_is_replaced_and_that_is_said(spoken, tmp_path):
    (tmp_path / "out.json").write_text("old")
    assert spoken("--tasks", "tasks", "--out", "out.json")[1].startswith("out.json: written anew\n")
    assert "flip" in json.loads((tmp_path / "out.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "tasks"]


def test_each_task_is_drawn(spoken, tmp_path):
    assert spoken("--tasks", "tasks", "--pictures", "deep/pictures")[0] == 0
    files = sorted((tmp_path / "deep/pictures").iterdir())
    assert [path.name for path in files] == ["flip.png", "unknown.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


@pytest.mark.parametrize("task, name", [("007bbfb7", "007bbfb7"), ("embedded/flip/17", "embedded_flip_17"),
                                        ("../../x", "_.._x"), ("..", "_"), ("a\0b\nc", "a_b_c"), ("", "_")])
def test_a_picture_is_called_as_its_task_and_stays_in_its_folder(task, name):
    assert file_name(task) == name


@pytest.mark.parametrize("options, message", [
    (["--tasks", "nowhere"], "--tasks: 'nowhere' matches no file"),
    (["--tasks", "empty"], "--tasks empty: the folder holds no .json file"),
    (["--tasks", "bad.json"], "bad.json: task bad: it has no \"train\""),
    (["--tasks", "tasks", "--views", "0"], "--views 0: must be from 1 to 64"),
    (["--tasks", "tasks", "--views", "65"], "--views 65: must be from 1 to 64"),
    (["--tasks", "tasks", "--out", "no/where/x.json"], "--out no/where/x.json: there is no folder no/where"),
    (["--tasks", "tasks", "--out", "empty"], "--out empty: that is a folder"),
    (["--tasks", "tasks", "--out", "tasks/x.json"], "--out tasks/x.json: it stands where --tasks tasks reads"),
    (["--tasks", "bad*.json", "--out", "bad.json"], "--out bad.json: it stands where --tasks bad*.json reads"),
    (["--tasks", "tasks", "--pictures", "bad.json/x"], "cannot make the folder bad.json/x"),
])
def test_a_mistake_is_one_line_and_exit_code_two_before_the_model_is_loaded(spoken, tmp_path, monkeypatch, options,
                                                                            message):
    monkeypatch.setattr(solve, "load_trained", None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"test": []}')
    code, out, said = spoken(*options)
    assert code == 2 and message in said and said.count("\n") == 1 and out == ""
    assert not (tmp_path / "submission.json").exists()


def test_a_full_disk_leaves_what_was_there_and_says_so(spoken, tmp_path, monkeypatch):
    (tmp_path / "submission.json").write_text("old")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(solve.os, "fsync", full)
    code, out, said = spoken("--tasks", "tasks")
    assert code == 1 and "cannot write submission.json: No space left on device" in said and out == ""
    assert (tmp_path / "submission.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["submission.json", "tasks"]


def test_ctrl_c_says_how_many_tasks_were_answered_and_writes_nothing(spoken, tmp_path, monkeypatch):
    monkeypatch.setattr(solve, "TASKS_A_BLOCK", 1)
    inner, calls = solve._answered, []

    def pressed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(solve, "_answered", pressed)
    code, out, said = spoken("--tasks", "tasks")
    assert code == 130 and out == ""
    assert said == "\ndstrain: stopped by Ctrl-C after 1 of 2 tasks; submission.json is not written\n"
    assert not (tmp_path / "submission.json").exists()


def test_blocks_change_no_answer_and_progress_is_drawn_on_a_terminal(spoken, tmp_path, monkeypatch):
    monkeypatch.setattr("dstrain.infer.grid_voting.answer_prompts", __import__(
        "dstrain.infer.grid_answers", fromlist=["answer_prompts"]).answer_prompts)
    spoken("--tasks", "tasks", "--views", "3")
    together = (tmp_path / "submission.json").read_text()
    monkeypatch.setattr(solve, "TASKS_A_BLOCK", 1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, _, said = spoken("--tasks", "tasks", "--views", "3")
    assert code == 0 and (tmp_path / "submission.json").read_text() == together
    drawn = r"1 of 2 tasks, \d+ s left\r\x1b\[2K2 of 2 tasks, 0 s left\r\x1b\[2K"
    assert re.match(drawn + r"\(2 tasks, 3 queries", said), said


def test_a_folder_that_cannot_be_written_to_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to; choose another place"):
        solve._refuse_places(tmp_path / "x.json", None)


def test_a_task_is_adapted_to_by_its_demonstrations_and_answered_in_one_view(spoken, monkeypatch, tmp_path):
    model = trained()
    before = {name: weight.clone() for name, weight in model.trainee.model.named_parameters()}
    monkeypatch.setattr(solve, "load_trained", lambda *_: model)
    code, _, said = spoken("--tasks", "tasks", "--adapt", "3", "--adapter-rank", "2", "--adapt-lr", "0.01")
    assert code == 0 and re.search(r"^\(2 tasks, 3 queries in 1 view each, 15 tokens in .* s; adapted to 2 tasks, mean "
                                   r"loss 2\.\d+ at the first step and 2\.\d+ at the last; ", said)
    assert all((weight == before[name]).all() for name, weight in model.trainee.model.named_parameters())


def test_what_was_adapted_is_what_answers(spoken, monkeypatch):
    from dstrain.nn.adapters import AdaptedLinear

    model, seen = trained(), []

    def look(model, rows, kind):
        seen.append([bool(module.adapter_up.any()) for module in model.modules() if isinstance(module, AdaptedLinear)])
        return Copies()(model, rows, kind)

    monkeypatch.setattr(solve, "load_trained", lambda *_: model)
    monkeypatch.setattr("dstrain.infer.grid_voting.answer_prompts", look)
    spoken("--tasks", "tasks", "--adapt", "1")
    assert len(seen) == 2 and all(len(adapters) == 11 and all(adapters) for adapters in seen)
    spoken("--tasks", "tasks")
    assert seen[2] == []


def test_a_task_that_cannot_be_adapted_to_is_answered_all_the_same_and_counted(spoken, monkeypatch, tmp_path):
    """Its demonstrations have 2 x 3 + 1 = 7 positions and more, its query 4."""
    large = {"train": [{"input": [[1, 2], [3, 4]], "output": [[2, 1], [4, 3]]}], "test": [{"input": [[5, 6]]}]}
    (tmp_path / "tasks" / "large.json").write_text(json.dumps(large))
    monkeypatch.setattr(solve, "load_trained", lambda *_: trained(length=6))
    code, _, said = spoken("--tasks", "tasks", "--adapt", "1")
    assert code == 0 and "adapted to 2 tasks, mean" in said
    assert "; 1 task answered without adapters: no demonstration fits 6 positions" in said


@pytest.mark.parametrize("arguments, said", [
    (("--adapter-rank", "4"), "--adapter-rank 4: there is nothing to adapt without --adapt"),
    (("--adapt-lr", "1e-3"), "there is nothing to adapt without --adapt"),
    (("--adapt", "0"), "--adapt 0: must be at least 1"),
    (("--adapt", "1", "--adapter-rank", "0"), "--adapter-rank 0: must be above 0"),
    (("--adapt", "1", "--adapt-lr", "nan"), "--adapt-lr nan: must be above 0"),
    (("--adapt", "1", "--views", "8"), "--views 8: an encoder-decoder learns each task"),
])
def test_a_wrong_way_to_adapt_is_refused_in_one_line(spoken, arguments, said):
    code, _, err = spoken("--tasks", "tasks", *arguments)
    assert code != 0 and said in err and len(err.strip().splitlines()) == 1

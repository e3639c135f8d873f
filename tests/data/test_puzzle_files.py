"""Puzzles in files: each form that they come in, what is asked of them, and what is said of those that are wrong."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from puzzles_help import as_json, grid, opened, pair, random_task, task_json, write

from dstrain.config.arc import PuzzleSource
from dstrain.config.errors import UserError
from dstrain.config.source_files import files_of
from dstrain.data.grids.canonical import is_to_validate
from dstrain.data.grids.file_corpus import FilePuzzles
from dstrain.data.grids.json_tasks import task_of
from dstrain.data.grids.row import shown_beside
from dstrain.data.reading.text import Malformed

A, B, C, D, E = pair("1", "2"), pair("3", "4"), pair("5", "6"), pair("01 23", "1"), pair("7 7", "77")
ASKED = pair("8")
GOOD = task_json(A, B, test=[C])


def error_of(folder: Path, **more) -> str:
    with pytest.raises(UserError) as caught:
        opened(folder, **more)
    return str(caught.value)


def names_of(corpus: FilePuzzles) -> list[str]:
    return [found.name for found in corpus.tasks()]


# The forms.

def test_a_file_of_one_task_is_called_as_the_file_is(tmp_path):
    found, = opened(write(tmp_path, first=task_json(A, D, test=[C, ASKED]))).tasks()
    assert (found.name, len(found.demonstrations), len(found.queries)) == ("first", 2, 2)
    assert np.array_equal(found.demonstrations[1].input, grid("01", "23"))
    assert found.demonstrations[1].output.shape == (1, 1) and found.queries[1].output is None


def test_every_grid_has_its_own_shape(tmp_path):
    wide, tall = pair("0" * 30, " ".join("1" * 30)), pair(" ".join(["5" * 30] * 30), "3")
    found, = opened(write(tmp_path, t=task_json(wide, tall, test=[A]))).tasks()
    assert [array.shape for example in found.examples for array in example] == [
        (1, 30), (30, 1), (30, 30), (1, 1), (1, 1), (1, 1)]
    assert all(array.dtype == np.uint8 and not array.flags.writeable for example in found.examples for array in example)


def test_a_file_of_many_tasks_names_each(tmp_path):
    folder = write(tmp_path, many={"one": GOOD, "train": task_json(C, test=[A])}, other=GOOD)
    assert names_of(opened(folder)) == ["one", "train", "other"]


def test_solutions_are_found_beside_the_challenges(tmp_path):
    asked = {"one": task_json(A, test=[ASKED, pair("9")]), "two": GOOD}
    solved = {"two": [[[6]]], "one": [[[1, 1]], [[2]]]}
    folder = write(tmp_path, x_challenges=asked, x_solutions=solved)
    for pattern in ("*.json", "x_challenges.json"):
        corpus = opened(folder, pattern=pattern)
        assert names_of(corpus) == ["one", "two"] and corpus.file_count == 2
        one, two = corpus.tasks()
        assert [query.output.tolist() for query in (*one.queries, *two.queries)] == [[[1, 1]], [[2]], [[6]]]
        assert np.array_equal(one.queries[0].input, grid("8"))


def test_what_nobody_has_solved_is_neither_trained_on_nor_scored(tmp_path):
    corpus = opened(write(tmp_path, x_challenges={"one": task_json(A, B, test=[ASKED, C])}))
    assert [question.query.input.tolist() for question in corpus.to_validate()] == [[[5]]]
    assert [corpus.question(n).query.input.tolist() for n in range(len(corpus))] == [[[1]], [[3]], [[5]]]


def test_of_generated_pairs_the_first_three_are_shown(tmp_path):
    found, = opened(write(tmp_path, gen=[A, B, C, D, E])).tasks()
    assert [len(found.demonstrations), len(found.queries)] == [3, 2]
    assert np.array_equal(found.queries[0].input, grid("01", "23"))
    few, = opened(write(tmp_path / "few", gen=[A, D])).tasks()
    assert [len(few.demonstrations), len(few.queries)] == [1, 1]


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "t.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert names_of(opened(tmp_path)) == ["t"]


# What is asked.

def test_each_known_pair_is_a_question_and_has_another_to_be_shown_beside_it(tmp_path):
    same = pair("1", "9")  # the input of A: only one of both can be shown, and neither beside the other
    contents = {"whole": task_json(A, B, test=[C]), "unsolved": task_json(A, B, test=[ASKED]),
                "alone": task_json(A, same, test=[pair("1", "2")]), "two": task_json(A, same, B, test=[ASKED]),
                "wide and tall": task_json(pair("11", "2"), test=[pair("1 1", "2")])}
    corpus = opened(write(tmp_path, many=contents))
    asked = [(question.task.name, question.query) for question in map(corpus.question, range(len(corpus)))]
    assert [name for name, _ in asked] == ["whole"] * 3 + ["unsolved"] * 2 + ["two"] * 3 + ["wide and tall"] * 2
    wanted = [(found.name, example) for found in corpus.tasks() for example in found.examples
              if example.output is not None and shown_beside(found, example)]
    assert len(asked) == len(wanted) and all(a[1] is w[1] for a, w in zip(asked, wanted))


def test_a_source_without_a_question_is_refused(tmp_path):
    folder = write(tmp_path, t=task_json(A, test=[ASKED]))
    assert "no task has two pairs of different input" in error_of(folder)
    assert "nothing can be scored" in error_of(folder, split="valid")


def test_the_fingerprint_is_of_contents_and_not_of_places(tmp_path):
    one, other = (write(tmp_path / name, t=GOOD, u=task_json(D, E, test=[A])) for name in ("here", "there"))
    before = opened(one).fingerprint
    assert before == opened(other).fingerprint and before["count"] == 2
    changed = [task_json(A, B, test=[pair("5", "7")]), task_json(A, B, C, test=[C]), task_json(B, A, test=[C]),
               task_json(A, B, test=[pair("5", "66")]), task_json(A, B, test=[pair("5", "6 6")]),
               task_json(A, test=[B, C])]
    digests = {before["digest"]} | {opened(write(tmp_path / f"{n}", t=new, u=task_json(D, E, test=[A])))
                                    .fingerprint["digest"] for n, new in enumerate(changed)}
    assert len(digests) == 7


def test_a_file_that_has_changed_is_read_anew(tmp_path):
    """Another size tells, and so does another time where the size is the same."""
    def wrote(when_ns: int, *queries: dict) -> list:
        write(tmp_path, t=task_json(A, B, test=[*queries]))
        os.utime(tmp_path / "t.json", ns=(when_ns, when_ns))
        return [query.input.tolist() for _, query in opened(tmp_path).to_validate()]

    assert wrote(1, C) == [[[5]]]
    assert wrote(1, C, D) == [[[5]], [[0, 1], [2, 3]]]
    assert wrote(2, C, pair("98 76", "1")) == [[[5]], [[9, 8], [7, 6]]]


# The parts.

def test_parts_are_apart_and_together_all(tmp_path):
    folder = write(tmp_path, many={f"{n:02}": as_json(random_task(n)) for n in range(60)})
    train, valid = (names_of(opened(folder, part=part)) for part in ("train", "valid"))
    assert sorted(train + valid) == names_of(opened(folder))
    assert 1 <= len(valid) <= 15  # a tenth is expected; the digests of these are fixed


def test_a_part_that_nothing_falls_into_is_said(tmp_path):
    folder = write(tmp_path, t=GOOD)
    empty = "train" if is_to_validate(next(opened(folder).tasks())) else "valid"
    assert f"none of the 1 task(s) of {folder}/*.json is of the part '{empty}'" in error_of(folder, part=empty)


# What is wrong.

@pytest.mark.parametrize("bad, why", [
    ([[1, 2], [1]], "rows of different lengths: 2 cell(s) in row 1, 1 in row 2"),
    ([[0, 0], [0, 11]], "row 2, column 2 is 11; a cell is a whole number from 0 to 9"),
    ([[10]], "row 1, column 1 is 10;"), ([[-1]], "row 1, column 1 is -1;"), ([[1.5]], "row 1, column 1 is 1.5;"),
    ([[0, 1.0]], "row 1, column 2 is 1.0;"), ([["a"]], "row 1, column 1 is 'a';"),
    ([[True]], "row 1, column 1 is true;"), ([[None]], "row 1, column 1 is null;"),
    ([[[1]]], "row 1, column 1 is a list;"), ([], "the grid is empty"), ([[]], "the grid is empty"),
    ([[0] * 31], "the grid has 1 row(s) of 31 cell(s); a side is 30 at most"),
    ([[0]] * 31, "the grid has 31 row(s) of 1 cell(s); a side is 30 at most"),
    ([0, 1], "a grid is a list of rows, and a row a list of cells; here is a number"),
    (None, "here is null"), ("0", "here is a text"), ({"a": 0}, "here is an object"),
    ([[10**40]], "column 1 is 1000000"),
])
def test_a_grid_that_is_none_is_said_with_its_place(tmp_path, bad, why):
    folder = write(tmp_path, t=task_json(A, {"input": bad, "output": [[1]]}, test=[C]))
    words = error_of(folder)
    assert words.startswith(f"{folder}/t.json: task t: pair 2 of \"train\", input: ") and why in words
    assert "\n" not in words


@pytest.mark.parametrize("content, why", [
    ({"test": [A]}, "it has no \"train\""), ({"train": [], "test": [A]}, "its \"train\" is empty"),
    ({"train": [A]}, "it has no \"test\""), ({"train": [A], "test": []}, "its \"test\" is empty"),
    ({"train": A, "test": [A]}, "its \"train\" is an object, and no list of pairs"),
    ({"train": [A], "test": [3]}, "pair 1 of \"test\" is a number"),
    ({"train": [A], "test": [{"output": [[1]]}]}, "pair 1 of \"test\" has no input"),
    ({"train": [A, ASKED], "test": [A]}, "pair 2 of \"train\" has no output"),
    ({"train": [A], "test": [{"input": [[1]], "output": [[1, 12]]}]}, "pair 1 of \"test\", output: row 1, column 2"),
    ([A], "it is a list of 1 pair(s)"), ([A, B, ASKED], "pair 3 of the list has no output"),
])
def test_a_task_that_is_none_is_said(tmp_path, content, why):
    folder = write(tmp_path, t=content)
    words = error_of(folder)
    assert words.startswith(f"{folder}/t.json: task t: ") and why in words


@pytest.mark.parametrize("text, why", [
    ("", "the file is empty"), (" \n", "the file is empty"), ("{}", "it holds neither a task"),
    ("3", "it holds neither a task, nor tasks by name, nor a list of pairs"),
    ("{\n  \"train\": [1,\n  ]}", "not JSON at line 3, column 3"),
    ('{"train": [], "train": []}', "the key 'train' stands twice in one object"),
    ('{"one": {}, "one": {}}', "the key 'one' stands twice in one object"),
    ("[" * 100_000, "not JSON that can be read"),
    ('{"train": [{"input": [[NaN]], "output": [[1]]}], "test": [{"input": [[1]]}]}', "row 1, column 1 is nan"),
])
def test_a_file_that_is_none_is_said(tmp_path, text, why):
    folder = write(tmp_path, t=text)
    words = error_of(folder)
    assert words.startswith(f"{folder}/t.json: ") and why in words


def test_what_is_not_utf_8_or_cannot_be_read_is_said(tmp_path):
    (tmp_path / "t.json").write_bytes(json.dumps(GOOD).encode("utf-16"))
    assert re.search(r"t\.json: line 1 is not UTF-8 \(.*iconv", error_of(tmp_path))
    (tmp_path / "t.json").unlink()
    (tmp_path / "t.json").symlink_to("/proc/self/mem")
    assert "t.json: cannot be read (Input/output error)" in error_of(tmp_path)


def test_the_first_that_is_wrong_is_named_and_the_others_are_counted(tmp_path):
    bad = task_json(pair("1"), test=[A])
    words = error_of(write(tmp_path, a=GOOD, b={"one": bad, "two": GOOD, "three": 3}, c="", d=bad))
    assert words.startswith(f"{tmp_path}/b.json: task one: ") and words.endswith("(and 3 more that are malformed)")


def test_a_name_that_comes_twice_in_a_source_is_refused(tmp_path):
    words = error_of(write(tmp_path, a={"t": GOOD}, t=GOOD))
    assert f"{tmp_path}/t.json: task t stands in {tmp_path}/a.json, too" in words


@pytest.mark.parametrize("solved, why", [
    ({"one": [[[1]], [[2]]]}, "task one: its solutions are 2 grid(s), but \"test\" asks 1 time(s)"),
    ({"one": [[[12]]]}, "task one: solution 1: row 1, column 1 is 12"),
    ({"two": [[[1]]]}, "x_solutions.json: it has no solutions of task one"),
    ({"one": [[[1]]], "two": [[[1]]]}, "x_solutions.json: it has solutions of task two, which"),
    ([1], "x_solutions.json: it holds no object by the tasks' names"), ("{", "x_solutions.json: not JSON"),
])
def test_solutions_of_other_tasks_are_refused(tmp_path, solved, why):
    assert why in error_of(write(tmp_path, x_challenges={"one": task_json(A, test=[ASKED])}, x_solutions=solved))


def test_a_solution_that_contradicts_the_task_is_refused():
    with pytest.raises(Malformed, match="solution 1 is another than the output of pair 1"):
        task_of("t", GOOD, [[[7]]])
    assert task_of("t", GOOD, [[[6]]]).queries[0].output.tolist() == [[6]]


def test_solutions_alone_are_no_tasks(tmp_path):
    assert "x_solutions.json holds solutions alone; name the file of their tasks, x_challenges.json" in error_of(
        write(tmp_path, x_solutions={"one": [[[1]]]}))


def test_a_folder_alone_is_refused_with_an_example(tmp_path):
    (tmp_path / "tasks.json").mkdir()
    with pytest.raises(UserError, match=r"is a folder; .* for example \S*tasks.json/\*.json or"):
        files_of(PuzzleSource(path=str(tmp_path / "tasks.json")), "data.train.0")
    with pytest.raises(UserError, match="data.train.0.path: .* matches no file"):
        files_of(PuzzleSource(path=str(tmp_path / "no.json")), "data.train.0")


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (write(tmp_path, t=GOOD) / "notes.txt").write_text("")
    assert "notes.txt does not end in .json; rename it or narrow the pattern" in error_of(tmp_path, pattern="*")


def test_the_files_of_a_source_are_those_that_are_read(tmp_path):
    folder = write(tmp_path, x_challenges={"one": GOOD}, x_solutions={"one": [[[6]]]}, a=GOOD)
    source = PuzzleSource(path=str(folder / "x_c*.json"))
    assert [path.name for path in files_of(source, "here")] == ["x_challenges.json", "x_solutions.json"]
    assert files_of(PuzzleSource(embedded="puzzles"), "here") == []

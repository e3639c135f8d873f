"""Which task is a copy of another: turned, mirrored, recoloured, reordered, under its own name or another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from puzzles_help import as_json, opened, pair, random_task, task, write

from dstrain.config.errors import UserError
from dstrain.data.grids.audit import check_apart, shared_with_training
from dstrain.data.grids.canonical import canonical_hash, is_to_validate, pair_form
from dstrain.data.grids.made_corpus import MadePuzzles
from dstrain.data.grids.task import Example, Task
from dstrain.data.grids.views import SYMMETRIES, View, view_of

TASKS = [random_task(n) for n in range(20)]
RECOLOURED = View(0, (3, 1, 4, 0, 5, 9, 2, 6, 8, 7))


def disguised(found: Task, symmetry: int, name: str = "copy") -> Task:
    """Turned, recoloured, its pairs in another order: what was asked is demonstrated first, and the last is asked."""
    seen = View(symmetry, RECOLOURED.colours).of_task(found)
    *shown, asked = reversed(seen.examples)
    return Task(name, seen.category, tuple(shown), (asked,))


def names(shared) -> list[tuple[str, str]]:
    return [(one.valid.name, one.train.name) for one in shared]


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_a_turned_recoloured_and_reordered_copy_is_on_the_same_side(symmetry):
    assert [canonical_hash(disguised(found, symmetry)) for found in TASKS] == [canonical_hash(found) for found in TASKS]
    assert len({canonical_hash(found) for found in TASKS}) == len(TASKS)


def test_a_task_with_another_cell_shape_or_pair_is_another():
    found = TASKS[0]
    first, *others = found.demonstrations
    cell = first.input.copy()
    cell[0, 0] = (set(range(10)) - set(cell.flat)).pop()
    changed = [replace(found, demonstrations=(Example(cell, first.output), *others)),
               replace(found, demonstrations=(Example(first.input.reshape(1, -1), first.output), *others)),
               replace(found, demonstrations=(Example(first.input, first.output[:1]), *others)),
               replace(found, demonstrations=tuple(others)),
               replace(found, demonstrations=(Example(np.rot90(first.input), np.rot90(first.output)), *others))]
    assert len({canonical_hash(one) for one in (found, *changed)}) == 6


def test_colours_are_named_by_their_first_place_in_input_and_then_output():
    form = pair_form(task("t", [pair("77 30", "0 5 7")], []).demonstrations[0])
    assert list(form) == [2, 2, 3, 1, 0, 0, 1, 2, 2, 3, 0]


def test_a_pair_and_its_output_taken_for_its_input_have_different_forms():
    one, other = task("t", [pair("12", "12"), pair("1", "1 2 2")], []).demonstrations
    assert len({pair_form(one), pair_form(other), pair_form(Example(one.input, None))}) == 3


def test_about_one_task_in_ten_is_to_validate():
    assert 60 <= sum(is_to_validate(random_task(n, pairs=2)) for n in range(1000)) <= 140


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_a_disguised_copy_is_found(symmetry):
    valid = [random_task(100), disguised(TASKS[3], symmetry), random_task(101)]
    assert names(shared_with_training(valid, TASKS)) == [("copy", "random 3")]


LARGE = [random_task(n, side=12) for n in range(20, 30)]
"""pairs of 100 cells and more"""


def test_two_large_pairs_are_enough_in_whatever_role():
    """Among others, and only demonstrated here or there: as after a split by pair."""
    found, other = LARGE[3], LARGE[4]
    shown = (*View(5).of_task(found).demonstrations[:2], *other.demonstrations[:1])
    two = Task("two", "", shown, random_task(7).queries)
    assert names(shared_with_training([two], [other])) == []
    assert names(shared_with_training([two], LARGE)) == [("two", found.name)]


def test_large_pairs_in_common_in_two_different_symmetries_are_chance():
    found = LARGE[3]
    first, second = View(1).of_task(found).demonstrations[0], View(2).of_task(found).demonstrations[1]
    mixed = Task("mixed", "", (first, second), random_task(7).queries)
    assert shared_with_training([mixed], LARGE) == []


def test_one_large_pair_in_common_is_chance():
    """A blank grid that stays so, for one."""
    blank = pair(" ".join(["0" * 10] * 10), " ".join(["0" * 10] * 10))
    valid = task("t", [blank], [pair("12 34", "5")])
    assert shared_with_training([valid], [task("train", [blank], [pair("55 78", "9")])]) == []


def test_small_pairs_in_common_are_chance_but_not_where_there_are_no_others():
    """Of 49 cells each they are small, of 50 they are not."""
    one, other, third = pair("123 456 789", "1"), pair("12 34", "5"), pair("0011 2233", "4")
    training = [task("train", [one, other], [pair("1", "1")])]
    assert shared_with_training([task("t", [third, other], [one])], training) == []
    assert names(shared_with_training([task("t", [other], [one])], training)) == [("t", "train")]
    # Its only pair whose output is known; and one pair shown twice in two colourings is one.
    assert names(shared_with_training([task("t", [one], [pair("8")])], training)) == [("t", "train")]
    twice = task("t", [one, pair("923 456 781", "9")], [third])
    assert shared_with_training([twice], training) == []
    for (height, width), expected in (((6, 8), []), ((7, 7), [("t", "train")])):
        blank = "0" * width
        pairs = [pair(" ".join([blank] * at + [blank[1:] + "1"] + [blank] * (height - at - 1)), "0") for at in range(2)]
        assert names(shared_with_training([task("t", [*pairs, third], [])], [task("train", pairs, [])])) == expected


def test_generated_pairs_of_an_arc_task_are_that_task():
    """By the name alone, where it is one of ARC's: other names say nothing."""
    def named(name: str, number: int) -> Task:
        return replace(random_task(number), name=name)

    common = ["007bbfb7", "puzzle", "DEADBEEF", "007bbfb71"]
    valid = [named(name, number) for number, name in enumerate([*common, "deadbeef"])]
    train = [named(name, number + 10) for number, name in enumerate([*common, "0badf00d"])]
    assert names(shared_with_training(valid, train)) == [("007bbfb7", "007bbfb7")]


def test_tasks_that_stand_on_both_sides_are_named(tmp_path):
    train = opened(write(tmp_path / "a", many={found.name: as_json(found) for found in TASKS}))
    copies = {f"copy {n}": as_json(disguised(TASKS[n], n)) for n in range(7)}
    valid = opened(write(tmp_path / "b", many=copies | {"new": as_json(random_task(100))}), split="valid")
    with pytest.raises(UserError) as caught:
        check_apart([train], [valid])
    words = str(caught.value)
    assert words.startswith("data.valid: 7 of 8 task(s) to validate on stand in data.train, too")
    assert "copy 0 (as random 0), " in words and "copy 4 (as random 4) and 2 more; take them out" in words


def test_parts_of_the_same_files_are_apart(tmp_path):
    """Though some of them are disguised copies of others."""
    both = {found.name: as_json(found) for found in (random_task(n) for n in range(60))}
    both |= {f"copy {n}": as_json(disguised(random_task(n), n % 8)) for n in range(60)}
    folder = write(tmp_path, many=both)
    train, valid = opened(folder, part="train"), opened(folder, part="valid", split="valid")
    numbers = [{found.name.split()[1] for found in corpus.tasks()} for corpus in (train, valid)]
    assert numbers[0].isdisjoint(numbers[1])
    assert len(list(train.tasks())) + len(list(valid.tasks())) == 120 and list(valid.tasks())
    check_apart([train], [valid])


def test_embedded_puzzles_to_train_on_are_not_gone_through(monkeypatch):
    def never(self) -> Iterator[Task]:
        raise AssertionError("a million tasks")

    train, valid = MadePuzzles(0, "data.train.0", "train"), MadePuzzles(0, "data.valid.0", "valid")
    monkeypatch.setattr(MadePuzzles, "tasks", lambda self: never(self) if self is train else iter(TASKS))
    check_apart([train], [valid])


def test_embedded_puzzles_in_a_file_are_found_when_they_are_validated_on(tmp_path):
    valid = MadePuzzles(0, "data.valid.0", "valid")
    copy = disguised(next(valid.tasks()), 3)
    train = opened(write(tmp_path, many={"mine": as_json(copy), "other": as_json(random_task(1))}))
    with pytest.raises(UserError, match=r"of 350 task\(s\) .*: embedded/\S+ \(as mine\)"):
        check_apart([train], [valid])


def test_a_view_of_every_kind_keeps_the_forms():
    for number in range(40):
        found = TASKS[number % len(TASKS)]
        assert canonical_hash(view_of(True, "all", number).of_task(found)) == canonical_hash(found)

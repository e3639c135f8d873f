"""The 400 training tasks of ARC-AGI-1: all are read, known figures come out, and their two parts are apart."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from puzzles_help import ARC_TASKS, as_json, opened, random_task, write

from dstrain.config.errors import UserError
from dstrain.data.grids.audit import check_apart, shared_with_training
from dstrain.data.grids.canonical import canonical_hash
from dstrain.data.grids.task import Task
from dstrain.data.grids.tokens import grid_of, ids_of
from dstrain.data.grids.views import View

pytestmark = pytest.mark.skipif(not ARC_TASKS.is_dir(), reason=f"no {ARC_TASKS}")


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return list(opened(ARC_TASKS).tasks())


def test_all_tasks_are_read_with_all_their_pairs(tasks):
    corpus = opened(ARC_TASKS)
    assert len(tasks) == corpus.file_count == 400 and len({found.name for found in tasks}) == 400
    assert sum(len(found.demonstrations) for found in tasks) == 1302
    assert len(list(corpus.to_validate())) == sum(len(found.queries) for found in tasks) == 416
    assert len(corpus) == 1718
    shown = Counter(len(found.demonstrations) for found in tasks)
    assert shown == {2: 56, 3: 237, 4: 78, 5: 18, 6: 5, 7: 3, 8: 2, 10: 1}


def test_they_are_known_by_name(tasks):
    first = tasks[0]
    assert (first.name, first.category, len(first.demonstrations), len(first.queries)) == ("007bbfb7", "larger", 5, 1)
    assert first.demonstrations[0].input.tolist() == [[0, 7, 7], [7, 7, 7], [0, 7, 7]]
    assert first.demonstrations[0].output.shape == (9, 9)


def test_every_grid_is_spelled_and_read_back(tasks):
    grids = [array for found in tasks for example in found.examples for array in example]
    assert len(grids) == 2 * 1718
    assert all(np.array_equal(grid_of(ids_of(array)), array) for array in grids)
    sides = [side for array in grids for side in array.shape]
    assert (min(sides), max(sides)) == (1, 30)


def test_the_parts_hold_every_task_once_and_are_apart(tasks):
    train, valid = opened(ARC_TASKS, part="train"), opened(ARC_TASKS, part="valid", split="valid")
    names = [[found.name for found in corpus.tasks()] for corpus in (train, valid)]
    assert [len(part) for part in names] == [350, 50]
    assert sorted(names[0] + names[1]) == [found.name for found in tasks]
    check_apart([train], [valid])


def test_no_task_is_a_copy_of_another(tasks):
    assert len({canonical_hash(found) for found in tasks}) == 400
    for start in range(0, 400, 100):
        some = tasks[start:start + 100]
        assert shared_with_training(some, tasks[:start] + tasks[start + 100:]) == []


def test_a_disguised_copy_among_others_is_named(tasks, tmp_path):
    """Turned, recoloured and reordered, one of its pairs asked that was shown before."""
    wanted = View(6, (0, 5, 1, 2, 9, 3, 4, 8, 7, 6)).of_task(tasks[123])
    *shown, asked = reversed(wanted.examples)
    contents = {"planted": as_json(Task("planted", wanted.category, tuple(shown), (asked,))),
                **{found.name: as_json(found) for found in map(random_task, range(5))}}
    valid = opened(write(tmp_path, many=contents), split="valid")
    with pytest.raises(UserError, match=rf"1 of 6 task\(s\) .*: planted \(as {tasks[123].name}\); take"):
        check_apart([opened(ARC_TASKS)], [valid])


def test_four_hundred_against_four_hundred_take_a_moment(tasks):
    """Well below a second on a quiet core."""
    began = time.process_time()
    assert len(shared_with_training(tasks, tasks)) == 400
    assert time.process_time() - began < 3

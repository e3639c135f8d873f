"""Puzzles made by rule, each answered from its demonstrations alone: by rules in plain lists, which share nothing with
those that made it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dstrain.data.grids.made import tasks
from dstrain.data.grids.made.chance import BLOCK, Chance
from dstrain.data.grids.made.filling import enclosed
from dstrain.data.grids.made.rule import Kind, Rule
from dstrain.data.grids.made.tasks import KINDS, made_task
from dstrain.data.grids.made.turning import flip
from dstrain.data.grids.task import COLOURS, Task
from dstrain.data.grids.views import SYMMETRIES, View, view_of

NAMES = [kind.name for kind in KINDS]
SIXTH = (
    [([[0, 3, 0], [0, 3, 0], [0, 0, 0]], [[3, 3]]),
     ([[0, 0, 0], [6, 0, 0], [0, 0, 0], [0, 6, 6]], [[6, 6, 6]]),
     ([[0, 0, 0, 0], [0, 0, 7, 7], [7, 0, 0, 7]], [[7, 7, 7, 7]]),
     ([[0, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 5]], [[5, 5]])],
    [[0, 0, 0], [3, 0, 0], [0, 0, 0], [0, 0, 0]], [[3]])
"""puzzle 6, by hand: count, a lying bar of as many cells as there are"""
EACH = 300
"""puzzles of a kind that are looked at"""


def numbers_of(name: str, count: int = EACH) -> range:
    return range(NAMES.index(name), count * len(NAMES), len(NAMES))


def turned(grid: list, quarters: int) -> list:
    """Against the clock: the last column becomes the first row."""
    for _ in range(quarters):
        grid = [list(column) for column in zip(*grid)][::-1]
    return grid


def mirrored(grid: list) -> list:
    return [row[::-1] for row in grid]


def fallen_down(grid: list) -> list:
    """Every cell that has nothing below it falls a step, until none has."""
    grid = [list(row) for row in grid]
    for _ in grid:
        for above, below in zip(grid[:-1], grid[1:]):
            for column, cell in enumerate(below):
                if not cell:
                    below[column], above[column] = above[column], 0
    return grid


def filled_with(grid: list, colour: int) -> list:
    """All background but what can be walked to from the rim."""
    height, width = len(grid), len(grid[0])
    outside = [(r, c) for r in range(height) for c in range(width) if r in (0, height - 1) or c in (0, width - 1)]
    outside, seen = [(r, c) for r, c in outside if not grid[r][c]], set()
    while outside:
        r, c = outside.pop()
        if (r, c) not in seen and 0 <= r < height and 0 <= c < width and not grid[r][c]:
            seen.add((r, c))
            outside += [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
    return [[cell if cell or (r, c) in seen else colour for c, cell in enumerate(row)] for r, row in enumerate(grid)]


def cropped(grid: list) -> list:
    for _ in range(4):  # each side comes to the top once
        while not any(grid[0]):
            grid = grid[1:]
        grid = turned(grid, 1)
    return grid


def most(grid: list) -> tuple[int, int]:
    return Counter(cell for row in grid for cell in row if cell).most_common(1)[0]


def recoloured(grid: list, pairs: list) -> list | None:
    """By what is seen to happen to each colour; None where one of the grid's was never seen, or one is seen to stay."""
    table = {0: 0}
    for before, after in pairs:
        for row, answer in zip(before, after):
            table |= dict(zip(row, answer))
    cells = {cell for row in grid for cell in row}
    if not cells <= table.keys() or any(table[cell] == cell for cell in table.keys() - {0}):
        return None
    return [[table[cell] for cell in row] for row in grid]


def rules_of(name: str, pairs: list) -> list:
    """All rules that a kind has, whatever the pairs show; of recolour the one that they show."""
    return {
        "flip": [mirrored, lambda grid: grid[::-1]],
        "rotate": [lambda grid, q=q: turned(grid, q) for q in (1, 2, 3)],
        "recolour": [lambda grid: recoloured(grid, pairs)],
        "gravity": [lambda grid, q=q: turned(fallen_down(turned(grid, q)), 4 - q) for q in range(4)],
        "fill": [lambda grid, colour=colour: filled_with(grid, colour) for colour in range(1, COLOURS)],
        "copy": [lambda grid: grid, lambda grid: [row + row for row in grid], lambda grid: grid + grid, cropped],
        "count": [lambda grid: [[most(grid)[0]]], lambda grid: [[most(grid)[0]] * most(grid)[1]],
                  lambda grid: [[most(grid)[0]]] * most(grid)[1]],
    }[name]


def answers(names: list[str], pairs: list, query: list) -> list:
    """To the query, by every rule of these kinds that explains all pairs and is seen to do something; no two alike.
    Grids that stay as they are were copied: nobody takes them for fallen cells that lay at the bottom before."""
    found = []
    for name in names:
        for rule in rules_of(name, pairs):
            at_work = name == "copy" or any(before != after for before, after in pairs)
            if at_work and all(rule(before) == after for before, after in pairs) and rule(query) not in found:
                found.append(rule(query))
    return found


def in_lists(task: Task) -> tuple[list, list, list]:
    """(pairs, query, answer)"""
    pairs = [(example.input.tolist(), example.output.tolist()) for example in task.demonstrations]
    return pairs, task.queries[0].input.tolist(), task.queries[0].output.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_every_made_puzzle_is_solved_by_its_rule(name):
    for number in numbers_of(name):
        pairs, query, answer = in_lists(made_task(number))
        assert answers([name], pairs, query) == [answer], number


@pytest.mark.parametrize("name", NAMES)
def test_one_demonstration_may_be_left_out(name):
    for number in numbers_of(name, 100):
        pairs, query, answer = in_lists(made_task(number))
        for place in range(len(pairs)):
            assert answers([name], pairs[:place] + pairs[place + 1:], query) == [answer], (number, place)


@pytest.mark.parametrize("name", ["flip", "rotate"])
def test_flipping_and_rotating_are_told_from_each_other_where_one_demonstration_is_left_out(name):
    for number in numbers_of(name):
        pairs, query, answer = in_lists(made_task(number))
        for place in range(len(pairs)):
            assert answers(["flip", "rotate"], pairs[:place] + pairs[place + 1:], query) == [answer], (number, place)


@pytest.mark.parametrize("name", NAMES)
def test_no_rule_of_another_kind_explains_a_puzzle_and_answers_otherwise(name):
    for number in numbers_of(name):
        pairs, query, answer = in_lists(made_task(number))
        assert answers(NAMES, pairs, query) == [answer], number


@pytest.mark.parametrize("name", NAMES)
def test_a_puzzle_seen_in_any_view_is_of_the_same_kind(name):
    for number in numbers_of(name, 20):
        for symmetry in range(SYMMETRIES):
            view = View(symmetry, view_of(False, "all_but_0", number, symmetry).colours)
            pairs, query, answer = in_lists(view.of_task(made_task(number)))
            assert answers([name], pairs, query) == [answer], (number, symmetry)


def test_a_puzzle_has_three_or_four_demonstrations_and_one_query_all_of_different_inputs():
    shown = Counter()
    for number in range(EACH * len(NAMES)):
        task = made_task(number)
        shown[len(task.demonstrations)] += 1
        inputs = {(example.input.shape, example.input.tobytes()) for example in task.examples}
        assert len(inputs) == len(task.demonstrations) + 1 and len(task.queries) == 1
    assert set(shown) == {3, 4} and min(shown.values()) > EACH * len(NAMES) * 0.45


def test_kinds_come_in_equal_shares_and_say_how_difficult_they_are():
    first = [made_task(number) for number in range(10 * len(NAMES))]
    assert Counter(task.category for task in first) == dict.fromkeys(NAMES, 10)
    assert [task.name for task in first[:8]] == [
        "embedded/flip/0", "embedded/rotate/1", "embedded/recolour/2", "embedded/gravity/3", "embedded/fill/4",
        "embedded/copy/5", "embedded/count/6", "embedded/flip/7"]
    assert {kind.difficulty for kind in KINDS} == {1, 2, 3} and all(kind.why for kind in KINDS)


def test_all_colours_and_answers_of_one_cell_occur_and_grids_are_small_and_of_different_shapes():
    made = [made_task(number) for number in range(EACH * len(NAMES))]
    grids = [grid for task in made for example in task.examples for grid in example]
    assert set(np.concatenate([grid.reshape(-1) for grid in grids]).tolist()) == set(range(COLOURS))
    one_cell = Counter(task.category for task in made if task.queries[0].output.shape == (1, 1))
    assert one_cell["count"] > EACH / 4 and one_cell["copy"] > 0
    assert max(max(grid.shape) for grid in grids) <= 12 and 12 < np.mean([grid.size for grid in grids]) < 20
    assert {grid.shape for grid in grids} >= {(1, 1), (1, 3), (3, 1), (5, 3), (6, 6), (6, 8), (8, 8), (10, 5)}
    for name in NAMES:
        several = [len({example.input.shape for example in task.examples}) > 1
                   for task in made if task.category == name]
        assert np.mean(several) > 0.9, name
    assert all(grid.dtype == np.uint8 and grid.flags.c_contiguous for grid in grids)


def test_an_answer_is_seldom_its_input():
    unchanged = Counter(task.category for task in map(made_task, range(EACH * len(NAMES)))
                        if np.array_equal(*task.queries[0]))
    assert unchanged["copy"] < EACH / 3  # one way of four
    assert all(unchanged[name] < EACH / 10 for name in NAMES if name != "copy")


def test_a_puzzle_is_a_function_of_its_number():
    """Other draws are other puzzles: whoever changes them changes what every recipe with them trains on."""
    pairs, query, answer = in_lists(made_task(6))
    assert (pairs, query, answer) == SIXTH
    first, again = made_task(700), made_task(700)
    assert all(np.array_equal(a, b) for one, two in zip(first.examples, again.examples) for a, b in zip(one, two))


def test_what_walls_enclose_is_background_that_has_no_way_out_in_any_direction():
    """Two rooms are closed, though they touch at a corner; the way out of the third goes round corners."""
    grid = np.array([[0, 1, 1, 1, 1, 1],
                     [0, 1, 0, 1, 0, 1],
                     [1, 0, 1, 1, 0, 1],
                     [1, 1, 1, 0, 0, 1],
                     [1, 0, 0, 0, 1, 1],
                     [1, 1, 1, 0, 1, 0]])
    assert enclosed(grid.astype(np.uint8)).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0]]


def test_a_rule_that_has_too_few_inputs_gives_way_to_another(monkeypatch):
    made = []

    def first_with_one_input(chance: Chance) -> Rule:
        rule, draws = flip(chance), []

        def the_same_again() -> np.ndarray:
            draws.append(None)
            assert len(draws) < 1000, "it is drawn for ever"
            return np.ones((1, 1), np.uint8)

        made.append(rule)
        return rule._replace(draw=the_same_again) if len(made) == 1 else rule

    monkeypatch.setattr(tasks, "KINDS", (Kind("flip", 1, "for a test", first_with_one_input),))
    task = made_task(5)
    assert len(made) >= 2 and len(task.demonstrations) >= 3


def test_chance_is_splitmix64_as_everybody_has_it():
    assert Chance(0).many_below(2**32, 3).tolist() == [0xE220A839, 0x6E789E6A, 0x06C45D18]  # the upper halves
    assert [Chance(0).below(16), Chance(0).many_below(16, 2)[1]] == [0xE, 0x6]


def test_chance_goes_on_with_another_block_where_one_ends():
    chance = Chance(7)
    first = chance.many_below(2**32, BLOCK).tolist()
    second = chance.many_below(2**32, BLOCK).tolist()
    assert len({*first, *second}) == 2 * BLOCK
    further = Chance(7 + BLOCK * 0x9E3779B97F4A7C15).many_below(2**32, BLOCK).tolist()
    assert second == further
    with pytest.raises(ValueError, match="513 draws at once; there are 512"):
        chance.many_below(2, BLOCK + 1)

"""What a model is shown when it is asked: a task's own demonstrations, no answer of any query, and room to write."""

from __future__ import annotations

import numpy as np
import pytest

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.prompt import prompt_of, shown_to
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER
from dstrain.data.grids.task import Example, Task
from dstrain.data.grids.tokens import grid_of
from dstrain.data.grids.views import View


def grid(height: int, width: int, colour: int) -> np.ndarray:
    return np.full((height, width), colour, np.uint8)


def task(*sizes: tuple[int, int], queries: int = 1) -> Task:
    """A task of squares: (side of the input, side of the output)."""
    examples = [Example(grid(wanted, wanted, n), grid(answer, answer, n)) for n, (wanted, answer) in enumerate(sizes)]
    return Task("a", "b", tuple(examples[:-queries]), tuple(examples[-queries:]))


def shown(row) -> list[tuple[list, list]]:
    return [(grid_of(wanted).tolist(), grid_of(answer).tolist()) for wanted, answer in row.shown]


DATA = PuzzleData(train=(), demonstrations=3)


def test_the_first_demonstrations_are_shown_in_their_order_and_in_the_view():
    asked = task(*[(1, 1)] * 6)
    row = prompt_of(Question(asked, asked.queries[0]), View(), DATA, DECODER, 100).row
    assert shown(row) == [([[n]], [[n]]) for n in range(3)] and grid_of(row.query).tolist() == [[5]]
    other = View(0, (9, 8, 7, 6, 5, 4, 3, 2, 1, 0))
    seen = prompt_of(Question(asked, asked.queries[0]), other, DATA, DECODER, 100).row
    assert shown(seen) == [([[9 - n]], [[9 - n]]) for n in range(3)] and grid_of(seen.query).tolist() == [[4]]


@pytest.mark.parametrize("kind", (DECODER, ENCODER_DECODER, CHAMPION))
def test_no_querys_answer_is_shown_its_own_or_anothers(kind):
    asked = task((2, 2), (2, 2), (2, 2), queries=2)
    for query in asked.queries:
        row = prompt_of(Question(asked, query), View(), DATA, kind, 100).row
        assert len(row.answer) == 0 and len(row.shown) == (0 if kind == ENCODER_DECODER else 1)
        hidden = query._replace(output=grid(7, 7, 7))
        other = prompt_of(Question(asked, hidden), View(), DATA, kind, 100).row
        assert np.array_equal(other.sequence(), row.sequence())
    twice = Task("a", "b", (asked.queries[0], asked.demonstrations[0]), asked.queries[:1])
    assert shown_to(Question(twice, twice.queries[0]), DATA) == [asked.demonstrations[0]]


def test_room_is_left_for_the_largest_of_the_query_and_the_outputs_shown():
    """A cell is 3 ids with its ends, a demonstration of cells 6, and a query START, 2 and SEPARATOR. An answer as large
    as the 3 x 3 output has 13 ids, of which the last is never read: 4 + (3 + 1 + 13) + 13 - 1."""
    asked = task((1, 3), (1, 1))
    question = Question(asked, asked.queries[0])
    row = prompt_of(question, View(), DATA, DECODER, 33).row
    assert len(row.sequence()) == 21 and len(row.shown) == 1
    shorter = prompt_of(question, View(), DATA, DECODER, 32).row
    assert (len(shorter.shown), shorter.left_out, len(shorter.sequence())) == (0, 1, 4)
    assert len(prompt_of(question, View(), DATA, CHAMPION, 33).row.shown) == 1      # 3 of the query and 2 x 13
    assert len(prompt_of(question, View(), DATA, CHAMPION, 28).row.shown) == 0


def test_where_so_large_an_answer_never_fits_a_smaller_one_may_and_a_query_that_does_not_fit_is_not_asked():
    asked = task((1, 4), (1, 1))
    question = Question(asked, asked.queries[0])
    assert prompt_of(question, View(), DATA, DECODER, 8).row.shown == ()
    assert prompt_of(question, View(), DATA, DECODER, 3) is None
    assert prompt_of(question, View(), DATA, ENCODER_DECODER, 2) is None


def test_an_answer_may_have_twice_the_ids_of_the_largest_grid_that_tells_its_size_and_ten_more():
    """Of four demonstrations three are shown, but the largest output, 4 x 4 with 21 ids, is the fourth's."""
    asked = task((1, 1), (1, 1), (1, 1), (1, 4), (1, 1))
    for kind in (DECODER, ENCODER_DECODER, CHAMPION):
        assert prompt_of(Question(asked, asked.queries[0]), View(), DATA, kind, 100).most == 52
    huge = task((30, 1), (1, 1))
    assert prompt_of(Question(huge, huge.queries[0]), View(), DATA, DECODER, 100).most == 16
    huge = task((1, 30), (1, 1))
    assert prompt_of(Question(huge, huge.queries[0]), View(), DATA, DECODER, 100).most == 931

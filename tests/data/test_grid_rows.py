"""Rows of puzzles: what is shown, what is asked, what is scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.grid_batch import collate_grids, filler_grids, hash_of_grids
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER, cut_to, drawn, fitted, row_of, shown_beside
from dstrain.data.grids.task import Example, Task
from dstrain.data.grids.tokens import grid_of

PLAIN = PuzzleData(train=(), symmetries=False, colours="none", demonstrations=3)
START, ROW_END, END, IS = 11, 10, 12, 13


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(cell) for cell in row] for row in rows], np.uint8)


def task(*pairs: tuple[str, str], query: tuple[str, str] = ("56", "65")) -> Task:
    """Grids of one row each."""
    examples = tuple(Example(grid(one), grid(other)) for one, other in pairs)
    return Task("t", "c", examples, (Example(grid(query[0]), grid(query[1])),))


TURNED = task(("12", "21"), ("34", "43"), ("78", "87"))


def ids(text: str) -> list[int]:
    """`>` start, `|` row end, `.` end, `=` separator, digits cells."""
    return [{">": START, "|": ROW_END, ".": END, "=": IS}.get(sign) or int(sign) for sign in text]


def test_an_answer_never_stands_in_its_own_context_and_no_demonstration_comes_twice():
    doubled = task(("12", "21"), ("56", "65"), ("12", "21"), ("34", "43"))
    for query in doubled.examples:
        shown = shown_beside(doubled, query)
        inputs = [example.input.tobytes() for example in shown]
        assert query.input.tobytes() not in inputs and len(inputs) == len(set(inputs)) == 2


@pytest.mark.parametrize("query", range(4))
def test_each_example_is_asked_with_the_others_beside_it(query: int):
    asked = TURNED.examples[query]
    row = drawn(TURNED, asked, PLAIN, 1, 2, 3)
    assert np.array_equal(grid_of(row.query), asked.input) and np.array_equal(grid_of(row.answer), asked.output)
    shown = {grid_of(wanted).tobytes() for wanted, _ in row.shown}
    assert shown == {one.input.tobytes() for one in TURNED.examples if one is not asked}
    assert all(np.array_equal(grid_of(wanted)[:, ::-1], grid_of(answer)) for wanted, answer in row.shown)


def test_a_view_is_the_same_for_all_grids_of_a_row_and_its_key_s_alone():
    data = PuzzleData(train=(), demonstrations=3)
    seen = set()
    for key in range(40):
        rows = [drawn(TURNED, TURNED.queries[0], data, 5, key) for _ in range(2)]
        assert rows[0].query.tolist() == rows[1].query.tolist()
        for wanted, answer in (*rows[0].shown, (rows[0].query, rows[0].answer)):
            one, other = grid_of(wanted), grid_of(answer)
            across = one.shape == (1, 2)
            assert np.array_equal(one[:, ::-1] if across else one[::-1], other)
        cells = {int(cell) for wanted, _ in rows[0].shown for cell in grid_of(wanted).flat}
        assert len(cells) == 6 and 0 not in cells  # six colours stay six, and the background is none of them
        seen.add(tuple(rows[0].query))
    assert len(seen) > 20


def test_a_decoder_s_row_written_out():
    row = row_of(TURNED.demonstrations[:2], TURNED.queries[0])
    batch = collate_grids([row], [7], DECODER)
    text = ">12|=21|.>34|=43|.>56|=65|"
    assert batch.ids_BT[0].tolist() == ids(text) and batch.lengths_B.tolist() == [len(text)]
    expected = [-100] * 13 + ids("43|.") + [-100] * 5 + ids("65|.")
    assert batch.labels_BT[0].tolist() == expected
    alone = collate_grids([row], [7], DECODER, scores_shown=False).labels_BT[0].tolist()
    assert alone == [-100] * 22 + ids("65|.")
    assert batch.inputs()["positions_BT"][0].tolist() == list(range(len(text)))
    assert set(batch.inputs()["segments_BT"][0].tolist()) == {0}


def test_each_label_is_what_comes_next_and_ends_are_scored():
    rows = [row_of(TURNED.demonstrations[:count], TURNED.queries[0]) for count in (3, 1, 2)]
    for kind in (DECODER, ENCODER_DECODER, CHAMPION):
        batch = collate_grids(rows, range(3), kind)
        for b, length in enumerate(batch.lengths_B.tolist()):
            found = batch.labels_BT[b, :length]
            following = torch.cat([batch.ids_BT[b, 1:length], torch.tensor([END])])
            assert torch.equal(found[found >= 0], following[found >= 0])
            assert found[-1] == END and bool((batch.labels_BT[b, length:] == -100).all())
            assert batch.ids_BT[b, 0] == START and bool((batch.ids_BT[b, length:] == 0).all())


def test_a_champion_s_grids_stand_each_at_its_own_place_with_its_own_length():
    small, large = task(("1", "2"), query=("3", "4")), task(("12345", "54321"), ("1", "1"), query=("7", "7"))
    batch = collate_grids([row_of(one.demonstrations, one.queries[0]) for one in (small, large)], [0, 1], CHAMPION)
    assert batch.context_lengths_BG.tolist() == [[3, 3, 0, 0], [7, 7, 3, 3]]
    grids = batch.context_BX.view(2, 4, 7)
    assert grids[0, 1].tolist() == [*ids("2|."), 0, 0, 0, 0] and grids[1, 1].tolist() == ids("54321|.")
    assert not bool(grids[0, 2:].any())
    assert batch.source_BS.tolist() == [ids("3|."), ids("7|.")]


def test_a_filler_scores_nothing_and_a_prompt_has_no_answer():
    for kind in (DECODER, ENCODER_DECODER, CHAMPION):
        filler = filler_grids(kind)
        assert filler.scored() == filler.filled() == 0 and filler.rows_B.tolist() == [-1]
        prompt = collate_grids([row_of(TURNED.demonstrations, TURNED.queries[0], with_answer=False)], [0], kind)
        assert prompt.scored() == 0
        assert prompt.ids_BT[0].tolist() == ([START] if kind != DECODER else ids(">12|=21|.>34|=43|.>78|=87|.>56|="))


@pytest.mark.parametrize("kind, whole, length, left", [
    (DECODER, 35, 34, 2), (DECODER, 35, 26, 2), (DECODER, 35, 25, 1), (CHAMPION, 28, 27, 2), (CHAMPION, 28, 12, 1)])
def test_demonstrations_are_left_out_until_a_row_fits(kind: str, whole: int, length: int, left: int):
    row = row_of(TURNED.demonstrations, TURNED.queries[0])
    assert row.size(kind) == whole == collate_grids([row], [0], kind).ids_BT.shape[1] + (
        0 if kind == DECODER else 24 - 4 + 4)
    shorter = fitted(row, kind, length)
    assert len(shorter.shown) == left and shorter.left_out == 3 - left and shorter.size(kind) <= length


def test_what_does_not_fit_even_with_one_demonstration_is_no_row_but_is_cut_where_it_must_be_scored():
    row = row_of(TURNED.demonstrations, TURNED.queries[0])
    assert fitted(row, DECODER, 16) is None and fitted(row, CHAMPION, 11) is None
    assert fitted(row, ENCODER_DECODER, 4).shown == () and fitted(row, ENCODER_DECODER, 3) is None
    for kind in (DECODER, ENCODER_DECODER, CHAMPION):
        for length in range(5, 36):
            assert cut_to(row, kind, length).size(kind) <= length
    assert cut_to(row, DECODER, 8).size(DECODER) == 8 and not cut_to(row, DECODER, 8).cut
    assert cut_to(row, CHAMPION, 4).query.tolist() == ids("56|.")
    assert cut_to(row, CHAMPION, 3).query.tolist() == ids("56.")
    assert cut_to(row, DECODER, 7).cut and cut_to(row, DECODER, 7).answer.tolist() == ids("65|")


def test_a_row_s_hash_knows_every_grid_of_it_and_no_padding():
    row = row_of(TURNED.demonstrations[:2], TURNED.queries[0])
    long = row_of(task(("123456", "654321")).demonstrations, TURNED.queries[0])
    for kind in (DECODER, CHAMPION):
        alone = hash_of_grids(collate_grids([row], [0], kind))
        assert alone == hash_of_grids(collate_grids([row, long], [0, -1], kind))
        others = [row_of(TURNED.demonstrations[1:], TURNED.queries[0]),
                  row_of(TURNED.demonstrations[:2], Example(grid("57"), grid("65"))),
                  row_of(TURNED.demonstrations[:2], Example(grid("56"), grid("66")))]
        assert alone not in [hash_of_grids(collate_grids([other], [0], kind)) for other in others]
        assert alone != hash_of_grids(collate_grids([row], [1], kind))

"""Places in a grid are counted in each row for itself, whatever its width, its padding and its neighbours."""

from __future__ import annotations

import pytest
import torch

from dstrain.nn.grid_ids import END, ROW_END, START
from dstrain.nn.grid_places import (
    GridCache, answer_places, framed_turns, grid_turns, read_places, written_places)
from dstrain.nn.positions import turned

WIDE = [1, 2, 3, ROW_END, 4, 5, 6, ROW_END, END]           # 2 x 3
TALL = [7, ROW_END, 8, ROW_END, 9, ROW_END, END]           # 3 x 1


def padded(*rows: list[int], filling: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    return (torch.tensor([row + [filling] * (longest - len(row)) for row in rows]),
            torch.tensor([len(row) for row in rows]))


def test_rows_and_columns_of_grids_of_two_widths_side_by_side():
    (rows, columns), (below, right) = read_places(*padded(WIDE, TALL))
    assert rows[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert columns[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert rows[1, :7].tolist() == [0, 0, 1, 1, 2, 2, 3] and columns[1, :7].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert below[0].tolist() == [2, 2, 2, 2, 1, 1, 1, 1, 0] and right[0].tolist() == [3, 2, 1, 0, 3, 2, 1, 0, 3]
    assert below[1, :7].tolist() == [3, 3, 2, 2, 1, 1, 0] and right[1, :7].tolist() == [1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("filling", [ROW_END, END, 5])
def test_what_stands_in_padding_and_how_much_of_it_moves_no_token(filling: int):
    alone = read_places(*padded(TALL))
    beside = read_places(*padded(TALL, [1] * 40 + [ROW_END, END], filling=filling))
    for one, other in zip((*alone[0], *alone[1]), (*beside[0], *beside[1]), strict=True):
        assert torch.equal(one[0], other[0, :len(TALL)])


@pytest.mark.parametrize("height, width", [(1, 1), (1, 30), (30, 1), (30, 30), (3, 7), (7, 3)])
def test_places_are_right_for_every_shape_beside_a_grid_of_another(height: int, width: int):
    grid = [cell for _ in range(height) for cell in [1] * width + [ROW_END]] + [END]
    ids_BT, lengths_B = padded(grid, WIDE)
    (rows, columns), (below, right) = read_places(ids_BT, lengths_B)
    cells = [(r, c) for r in range(height) for c in range(width + 1)]
    found = list(zip(rows[0, :len(cells)].tolist(), columns[0, :len(cells)].tolist()))
    from_ends = list(zip(below[0, :len(cells)].tolist(), right[0, :len(cells)].tolist()))
    assert found == cells and from_ends == [(height - r, width - c) for r, c in cells]
    assert rows[1, :len(WIDE)].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_what_is_written_next_stands_where_reading_finds_it():
    (rows, columns), _ = read_places(*padded(WIDE))
    written = answer_places(torch.tensor([[START, *WIDE[:-1]]]))
    assert torch.equal(written.rows_BT, rows) and torch.equal(written.columns_BT, columns)


def test_no_place_depends_on_what_is_written_later():
    for later in (0, ROW_END, END):
        places = answer_places(torch.tensor([[START, 1, 2, ROW_END, 3, *[later] * 4]]))
        assert places.rows_BT[0, :5].tolist() == [0, 0, 0, 1, 1]
        assert places.columns_BT[0, :5].tolist() == [0, 1, 2, 0, 1]


def test_a_cache_counts_on_from_chunk_to_chunk_each_row_for_itself():
    whole = [torch.tensor([[START, *grid[:-1]]]) for grid in (WIDE, TALL)]
    cache = GridCache(2, 20, 1, 1, 8, torch.float32, torch.device("cpu"))
    found: list[list[tuple[int, int]]] = [[], []]
    for sizes in ((3, 1), (0, 4), (6, 2)):
        chunk = torch.full((2, max(sizes)), ROW_END)
        for b, size in enumerate(sizes):
            chunk[b, :size] = whole[b][0, len(found[b]):len(found[b]) + size]
        places = cache.places(chunk, torch.tensor(sizes))
        for b, size in enumerate(sizes):
            found[b] += list(zip(places.rows_BT[b, :size].tolist(), places.columns_BT[b, :size].tolist()))
    for b, ids_1T in enumerate(whole):
        expected = answer_places(ids_1T)
        assert found[b] == list(zip(expected.rows_BT[0].tolist(), expected.columns_BT[0].tolist()))


def test_rows_that_are_picked_keep_their_places():
    cache = GridCache(2, 20, 1, 1, 8, torch.float32, torch.device("cpu"))
    cache.places(torch.tensor([[START, 1, 2], [START, ROW_END, 0]]), torch.tensor([3, 2]))
    cache.pick(torch.tensor([1, 0, 1]))
    assert cache.rows_B.tolist() == [1, 0, 1] and cache.columns_B.tolist() == [0, 2, 0]


def test_turns_depend_on_distances_alone():
    """The product of a turned query and a turned key is that of the same two, both moved by 5 rows and 2 columns."""
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 1, 2, 16, generator=generator, dtype=torch.float64) for _ in range(2))

    def product(*moved: int) -> torch.Tensor:
        ids = torch.tensor([[1]])
        places = [written_places(ids, torch.tensor([r + moved[0]]), torch.tensor([c + moved[1]]))
                  for r, c in ((1, 2), (4, 9))]
        return (turned(q, grid_turns(places[0], 16, torch.float64)) *
                turned(k, grid_turns(places[1], 16, torch.float64))).sum()

    assert torch.allclose(product(0, 0), product(5, 2), atol=1e-12) and not torch.allclose(
        product(0, 0), (q * k).sum(), atol=1e-3)


@pytest.mark.parametrize("head, seen_from", enumerate([
    lambda r, c, h, w: (r, c), lambda r, c, h, w: (r, w - 1 - c), lambda r, c, h, w: (h - 1 - r, c),
    lambda r, c, h, w: (h - 1 - r, w - 1 - c), lambda r, c, h, w: (c, r), lambda r, c, h, w: (w - 1 - c, r),
    lambda r, c, h, w: (c, h - 1 - r), lambda r, c, h, w: (w - 1 - c, h - 1 - r)]))
def test_each_head_asks_a_grid_in_a_frame_in_which_a_cell_s_image_stands_at_its_own_place(head: int, seen_from):
    """Of a 2 x 3 grid: the angles of the key at (r, c) are those of a query at the place where its image stands."""
    places, left = read_places(*padded(WIDE))
    keys = framed_turns(places, left, 8, torch.float64)
    for slot in (0, 1, 2, 4, 5, 6):
        row, column = seen_from(int(places.rows_BT[0, slot]), int(places.columns_BT[0, slot]), 2, 3)
        asks = grid_turns(written_places(torch.tensor([[1]]), torch.tensor([row]), torch.tensor([column - 1])), 8,
                          torch.float64)
        for of_key, of_query in zip(keys, asks, strict=True):
            assert torch.allclose(of_key[0, slot, head], of_query[0, 0, 0], atol=1e-12)

"""Pictures of puzzles: their colours, what tells right from wrong, how large they get, and that they are PNG files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dstrain.data.grids.task import Example
from dstrain.train.event_file import EventFile
from dstrain.train.grid_picture import (
    COLOURS_103, FRAME, GAP, HEAD, PAPER, RIGHT, UNKNOWN, WIDEST, WRONG, Asked, puzzle_picture)
from dstrain.train.picture import png

CELL = 24
"""pixels, in a small picture"""


def grid(*lines: str) -> np.ndarray:
    return np.array([[int(cell) for cell in line] for line in lines], np.uint8)


SHOWN = [Example(grid("12"), grid("21"))]
QUERY = Example(grid("34"), grid("43"))


def has(pixels_HW3: np.ndarray, colour: np.ndarray) -> bool:
    return bool((pixels_HW3 == colour).all(axis=2).any())


def middles(pixels_HW3: np.ndarray, top: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    """The colour of each cell of a grid that begins there, a little off its middle, where a dot would be."""
    return pixels_HW3[top + 4:top + shape[0] * CELL:CELL, left + 4:left + shape[1] * CELL:CELL]


def test_the_demonstration_stands_above_and_each_cell_has_its_colour():
    pixels_HW3 = puzzle_picture(SHOWN, [Asked(QUERY, [])]).pixels_HW3
    assert np.array_equal(middles(pixels_HW3, GAP + HEAD, GAP, (1, 2)), COLOURS_103[grid("12")])
    assert len({tuple(colour) for colour in COLOURS_103.tolist()}) == 10
    for colour in (1, 2, 3, 4):
        assert has(pixels_HW3, COLOURS_103[colour])
    assert not has(pixels_HW3, COLOURS_103[5])


@pytest.mark.parametrize("attempts, truth, there, not_there", [
    ([grid("43")], grid("43"), [RIGHT], [WRONG, UNKNOWN]),
    ([grid("44")], grid("43"), [WRONG], [RIGHT, UNKNOWN]),
    ([grid("4")], grid("43"), [WRONG], [RIGHT, UNKNOWN]),
    ([grid("44"), grid("43")], grid("43"), [RIGHT, WRONG], [UNKNOWN]),
    ([], grid("43"), [WRONG], [RIGHT, UNKNOWN]),
    ([grid("43")], None, [UNKNOWN], [RIGHT, WRONG]),
])
def test_a_frame_is_green_where_the_answer_is_right_and_red_where_it_is_wrong(attempts, truth, there, not_there):
    pixels_HW3 = puzzle_picture(SHOWN, [Asked(QUERY._replace(output=truth), attempts)]).pixels_HW3
    assert all(has(pixels_HW3, colour) for colour in there) and not any(has(pixels_HW3, colour) for colour in not_there)


def attempt_alone(attempt: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The cells of a first attempt, behind a query of one cell."""
    pixels_HW3 = puzzle_picture(SHOWN, [Asked(Example(grid("0"), truth), [attempt])]).pixels_HW3
    rows, columns = np.nonzero((pixels_HW3 == WRONG).all(axis=2))
    top, left = rows.max() - FRAME - attempt.shape[0] * CELL, None
    across = np.nonzero((pixels_HW3[rows.max()] == WRONG).all(axis=1))[0]
    left = across.min() + FRAME
    return pixels_HW3[top:top + attempt.shape[0] * CELL, left:left + attempt.shape[1] * CELL]


def test_a_wrong_cell_has_a_dot_and_a_right_one_has_none():
    """14 for 13: the second cell is wrong; of 1 4 over 1 9 for 1 3 the second row has no place at all."""
    cells_HW3 = attempt_alone(grid("14"), grid("13"))
    middle = CELL // 2
    assert np.array_equal(cells_HW3[middle, middle], COLOURS_103[1])
    assert not np.array_equal(cells_HW3[middle, CELL + middle], COLOURS_103[4])
    larger_HW3 = attempt_alone(grid("14", "19"), grid("13"))
    wrong = [not np.array_equal(larger_HW3[row * CELL + middle, column * CELL + middle],
                                COLOURS_103[[[1, 4], [1, 9]][row][column]]) for row in (0, 1) for column in (0, 1)]
    assert wrong == [False, True, True, True]


def test_many_large_grids_make_small_cells_and_no_wider_picture():
    large = Example(np.zeros((30, 30), np.uint8), np.ones((30, 30), np.uint8))
    pixels_HW3 = puzzle_picture([large] * 8, [Asked(large, [large.output, large.input])]).pixels_HW3
    assert WIDEST // 2 < pixels_HW3.shape[1] <= WIDEST
    small_HW3 = puzzle_picture(SHOWN, [Asked(QUERY, [QUERY.output])] * 2).pixels_HW3
    assert small_HW3.shape[0] > puzzle_picture(SHOWN, [Asked(QUERY, [QUERY.output])]).pixels_HW3.shape[0]
    assert (small_HW3[:GAP] == PAPER).all() and (small_HW3[:, -GAP:] == PAPER).all()


def test_the_file_holds_these_pixels_and_tensorboard_reads_it_with_its_words(tmp_path):
    picture = puzzle_picture(SHOWN, [Asked(QUERY, [QUERY.output])], "a puzzle")
    data, width, height = png(picture)
    assert struct.unpack(">II", data[16:24]) == (width, height) and (height, width) == picture.pixels_HW3.shape[:2]
    size, = struct.unpack(">I", data[33:37])                                        # of what follows 8 + 25 bytes
    lines = np.frombuffer(zlib.decompress(data[41:41 + size]), np.uint8).reshape(height, 1 + 3 * width)
    assert data[37:41] == b"IDAT" and np.array_equal(lines[:, 1:].reshape(height, width, 3), picture.pixels_HW3)
    file = EventFile(tmp_path, 0)
    file.add_picture("puzzles/1", picture, 7)
    file.write_out()
    board = EventAccumulator(str(tmp_path)).Reload()
    image, = board.Images("puzzles/1")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (7, width, height, data)
    assert board.SummaryMetadata("puzzles/1").summary_description == "a puzzle"

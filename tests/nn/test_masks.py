"""The mask law, on rows that can be read."""

from __future__ import annotations

import torch

from dstrain.nn.masks import can_attend_BTT, can_attend_earlier_B1TT, can_attend_source_B11S


def test_two_documents_and_padding():
    segments_BT = torch.tensor([[0, 0, 1, 1, 1, -1, -1]])
    assert can_attend_BTT(segments_BT)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1]]


def test_every_position_attends_itself_so_that_no_softmax_is_empty():
    segments_BT = torch.randint(-1, 3, (5, 40), generator=torch.Generator().manual_seed(0))
    assert can_attend_BTT(segments_BT).diagonal(dim1=1, dim2=2).all()


def test_a_sources_padding_is_attended_by_nobody_but_in_a_filler_row():
    can_attend = can_attend_source_B11S(torch.tensor([3, 5, 1, 0]), 5)
    assert can_attend.shape == (4, 1, 1, 5)
    assert can_attend[:, 0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_a_target_sees_what_is_earlier_and_within_its_length():
    can_attend = can_attend_earlier_B1TT(torch.tensor([2, 4, 0]), 4)
    assert can_attend.shape == (3, 1, 4, 4)
    assert can_attend[:, 0].int().tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
        [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]]


def test_no_position_of_any_length_has_nothing_to_attend():
    lengths_B = torch.arange(9)
    assert can_attend_source_B11S(lengths_B, 8).any(-1).all() and can_attend_earlier_B1TT(lengths_B, 8).any(-1).all()

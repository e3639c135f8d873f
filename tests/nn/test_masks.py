"""The mask law, on a row that can be read."""

from __future__ import annotations

import torch

from dstrain.nn.masks import can_attend_BTT


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

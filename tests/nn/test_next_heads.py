"""Which token stands how far on in the same document."""

from __future__ import annotations

import torch

from dstrain.nn.next_heads import ahead, goes_on

SEGMENTS_BT = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 1, 1, 1, 1, 1]])


def test_a_document_goes_on_up_to_its_last_token_of_the_row():
    assert goes_on(SEGMENTS_BT, 1).int().tolist() == [[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 0]]
    assert goes_on(SEGMENTS_BT, 2).int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0]]
    assert not goes_on(SEGMENTS_BT, 6).any()


def test_what_is_ahead_is_the_same_documents_or_nothing():
    x_BTC = torch.arange(12.0).view(2, 6, 1)
    assert ahead(x_BTC, SEGMENTS_BT, 2).squeeze(-1).tolist() == [[2, 0, 0, 0, 0, 0], [0, 9, 10, 11, 0, 0]]


def test_a_row_that_is_one_document_never_begins_again():
    assert goes_on(torch.zeros(1, 3, dtype=torch.long), 1).tolist() == [[True, True, False]]


def test_padding_is_no_document_that_goes_on():
    assert goes_on(torch.tensor([[0, 0, -1, -1, -1]]), 1).int().tolist() == [[1, 0, 0, 0, 0]]

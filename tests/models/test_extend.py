"""The key-value cache: extending row by row gives what one forward pass over the whole row gives."""

from __future__ import annotations

import pytest
import torch
from lm_help import packed, small_lm

VARIANTS = [{}, {"block": "swiglu"}, {"positions": "learned"}, {"positions": "sinusoidal"}]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_pieces_of_any_length_give_the_whole_rows_hidden_states(settings: dict):
    model, inputs = small_lm(dropout=0.1, **settings).eval(), packed([24], [24], [24])
    whole_BTD = model(**inputs, keys_B=None).hidden_BTD
    cache, done = model.new_cache(3), [0, 0, 0]
    for pieces in ([5, 1, 3], [0, 4, 1], [1, 1, 1], [10, 0, 7], [8, 18, 12]):
        ids_BT = torch.full((3, max(pieces)), 49)                       # padding holds a real id
        for row, piece in enumerate(pieces):
            ids_BT[row, :piece] = inputs["ids_BT"][row, done[row]:done[row] + piece]
        hidden_BTD = model.extend(ids_BT, torch.tensor(pieces), cache)
        assert hidden_BTD.isfinite().all()
        for row, piece in enumerate(pieces):
            expected = whole_BTD[row, done[row]:done[row] + piece]
            torch.testing.assert_close(hidden_BTD[row, :piece], expected, rtol=0, atol=1e-12)
            done[row] += piece
    assert done == [24, 24, 24] == cache.lengths_B.tolist()


def test_what_the_padding_holds_changes_no_bit():
    model = small_lm().eval()
    outcomes = []
    for filler in (0, 31):
        cache = model.new_cache(2)
        first = torch.tensor([[1, 2, 3, 4], [5, filler, filler, filler]])
        hidden = model.extend(first, torch.tensor([4, 1]), cache)
        again = model.extend(torch.tensor([[filler], [6]]), torch.tensor([0, 1]), cache)
        outcomes.append([hidden[0], hidden[1, 0], again[1, 0]])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


def test_a_cache_that_is_full_or_too_large_is_said():
    model = small_lm().eval()
    with pytest.raises(ValueError, match="25 tokens goes beyond this model's length 24"):
        model.new_cache(1, 25)
    cache = model.new_cache(1, 4)
    model.extend(torch.tensor([[1, 2, 3]]), torch.tensor([3]), cache)
    with pytest.raises(ValueError, match="row of 5 tokens does not fit the cache's 4"):
        model.extend(torch.tensor([[1, 2]]), torch.tensor([2]), cache)


def test_extending_in_training_mode_with_dropout_is_refused():
    model = small_lm(dropout=0.1).train()
    with pytest.raises(ValueError, match="eval"):
        model.extend(torch.tensor([[1]]), torch.tensor([1]), model.new_cache(1))

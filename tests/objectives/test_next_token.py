"""The next-token objective and the trainee that the engine wraps, end to end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dstrain.config.schema import LmModel
from dstrain.models.decoder_lm import DecoderLm
from dstrain.nn.chance import row_keys
from dstrain.nn.init import fill_initial
from dstrain.objectives.next_token import NextToken
from dstrain.objectives.trainee import Trainee

LABELS_BT = torch.tensor([[4, 0, 2, -100], [0, -100, -100, -100]])     # id 0 is end-of-text: a target like others


def trainee() -> Trainee:
    model = fill_initial(DecoderLm(LmModel(width=8, heads=2, layers=1, ff=16, dropout=0.1), 5, 4), seed=1).double()
    return Trainee(model, NextToken())


def inputs() -> dict[str, torch.Tensor]:
    return {"ids_BT": torch.tensor([[0, 4, 0, 0], [0, 0, 0, 0]]),
            "segments_BT": torch.tensor([[0, 0, 1, -1], [0, -1, -1, -1]]),
            "positions_BT": torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]])}


def test_counts_are_the_labels_that_are_scored():
    counts = NextToken().counts(SimpleNamespace(labels_BT=LABELS_BT))
    assert counts.tolist() == [4] and counts.dtype == torch.int64
    assert NextToken.terms == ("next",) and NextToken().weights == (1.0,)


def test_the_trainee_returns_the_sum_over_the_scored_labels():
    engine = trainee()
    keys_B = row_keys(1, 1, torch.arange(2))
    sums = engine(inputs=inputs(), labels_BT=LABELS_BT, keys_B=keys_B)
    logits_BTV = engine.model.logits(engine.model(**inputs(), keys_B=keys_B).hidden_BTD)
    by_hand = sum(-torch.log_softmax(logits_BTV[row, place], -1)[label]
                  for row, place, label in ((0, 0, 4), (0, 1, 0), (0, 2, 2), (1, 0, 0)))
    assert sums.nll.shape == (1,) and sums.nll.dtype == torch.float64
    assert sums.nll.item() == pytest.approx(by_hand.item(), rel=1e-14)


def test_gradients_from_file_to_weight_are_cross_entropys():
    engine, keys_B = trainee(), row_keys(1, 1, torch.arange(2))
    engine(inputs=inputs(), labels_BT=LABELS_BT, keys_B=keys_B).nll.sum().backward()
    ours = [parameter.grad for parameter in engine.parameters()]
    logits_BTV = engine.model.logits(engine.model(**inputs(), keys_B=keys_B).hidden_BTD)
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), LABELS_BT.flatten(), ignore_index=-100, reduction="sum")
    for mine, reference in zip(ours, torch.autograd.grad(loss, list(engine.parameters())), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-14)


def test_an_input_that_the_model_does_not_take_is_an_error():
    with pytest.raises(TypeError, match="attention_mask"):
        trainee()(inputs=inputs() | {"attention_mask": LABELS_BT}, labels_BT=LABELS_BT, keys_B=None)
    with pytest.raises(TypeError):
        trainee()(inputs=inputs(), labels=LABELS_BT, keys_B=None)


def test_one_weight_per_term():
    with pytest.raises(ValueError, match="has 2 numbers"):
        NextToken((1.0, 0.5))

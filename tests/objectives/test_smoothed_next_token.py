"""Label smoothing as two terms of the loss law, from the recipe's one number to the weights' gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dstrain.config.translate import TranslateModel
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.chance import row_keys
from dstrain.nn.init import fill_initial
from dstrain.objectives.loss_law import loss_law
from dstrain.objectives.next_token import NextToken
from dstrain.objectives.smoothed_next_token import SmoothedNextToken
from dstrain.objectives.trainee import Trainee

LABELS_BT = torch.tensor([[4, 2, 0, -100], [0, -100, -100, -100]])     # id 0 is start and end: a target like others
KEYS_B = row_keys(1, 1, torch.arange(2))


def trainee(label_smoothing: float) -> Trainee:
    sizes = {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "ff": 16, "dropout": 0.1}
    model = fill_initial(Seq2Seq(TranslateModel(**sizes), 5, 5, True, 4), seed=1).double()
    return Trainee(model, SmoothedNextToken(label_smoothing))


def inputs() -> dict[str, torch.Tensor]:
    return {"source_BS": torch.tensor([[3, 1, 0], [2, 0, 0]]), "source_lengths_B": torch.tensor([3, 2]),
            "ids_BT": torch.tensor([[0, 4, 2, 0], [0, 0, 0, 0]]), "lengths_B": torch.tensor([3, 1])}


def test_a_tenth_of_smoothing_is_two_terms_that_count_the_same_labels():
    objective = SmoothedNextToken(0.1)
    assert objective.terms == ("next", "smoothing") and objective.weights == (0.9, 0.1)
    counts = objective.counts(SimpleNamespace(labels_BT=LABELS_BT))
    assert counts.tolist() == [4, 4] and counts.dtype == torch.int64


def test_no_smoothing_is_the_one_term_of_a_language_model_to_the_bit():
    engine = trainee(0.0)
    assert engine.objective.terms == NextToken.terms and engine.objective.weights == (1.0,)
    assert engine.objective.counts(SimpleNamespace(labels_BT=LABELS_BT)).tolist() == [4]
    outcomes = []
    for objective in (engine.objective, NextToken()):
        sums = Trainee(engine.model, objective)(inputs=inputs(), labels_BT=LABELS_BT, keys_B=KEYS_B)
        outcomes.append([sums.nll, *torch.autograd.grad(sums.nll.sum(), list(engine.model.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_the_loss_law_gives_torchs_label_smoothing_from_file_to_weight(smoothing: float):
    engine = trainee(smoothing)
    sums = engine(inputs=inputs(), labels_BT=LABELS_BT, keys_B=KEYS_B)
    assert sums.nll.shape == (2,) and sums.nll.dtype == torch.float64
    counts = engine.objective.counts(SimpleNamespace(labels_BT=LABELS_BT))
    loss = loss_law(sums.nll, counts, engine.objective.weights)
    logits_BTV = engine.model.logits(engine.model(**inputs(), keys_B=KEYS_B).hidden_BTD)
    theirs = F.cross_entropy(logits_BTV.flatten(0, 1), LABELS_BT.flatten(), ignore_index=-100,
                             label_smoothing=smoothing)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-14)
    parameters = list(engine.parameters())
    for ours, reference in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(theirs, parameters),
                               strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-13)


def test_the_term_next_is_the_plain_nll_whatever_the_smoothing():
    plain, smoothed = (trainee(smoothing)(inputs=inputs(), labels_BT=LABELS_BT, keys_B=KEYS_B).nll
                       for smoothing in (0.0, 0.2))
    assert smoothed[0].item() == pytest.approx(plain[0].item(), rel=1e-14)  # added up in other chunks


def test_an_input_that_the_model_does_not_take_is_an_error():
    with pytest.raises(TypeError, match="segments_BT"):
        trainee(0.1)(inputs=inputs() | {"segments_BT": LABELS_BT}, labels_BT=LABELS_BT, keys_B=None)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_share_is_at_least_0_and_below_1(smoothing: float):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        SmoothedNextToken(smoothing)

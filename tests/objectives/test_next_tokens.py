"""Several heads: each with labels, count and weight of its own, all of them in every step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dstrain.config.moe import MoeModel
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.init import fill_initial
from dstrain.objectives.loss_law import loss_law
from dstrain.objectives.next_tokens import NextTokens, labels_of_head
from dstrain.objectives.trainee import Trainee

# One row: document "start 5 6 7" with its end 0, document "start 8" cut at the row's end, which goes on with 9.
IDS_BT = torch.tensor([[0, 5, 6, 7, 0, 8]])
LABELS_BT = torch.tensor([[5, 6, 7, 0, 8, 9]])
SEGMENTS_BT = torch.tensor([[0, 0, 0, 0, 1, 1]])
POSITIONS_BT = torch.tensor([[0, 1, 2, 3, 0, 1]])
BATCH = SimpleNamespace(labels_BT=LABELS_BT, segments_BT=SEGMENTS_BT)
NO = -100


def test_labels_of_each_head_stand_at_its_distance_within_the_document():
    assert labels_of_head(LABELS_BT, SEGMENTS_BT, 0).tolist() == [[5, 6, 7, 0, 8, 9]]
    assert labels_of_head(LABELS_BT, SEGMENTS_BT, 1).tolist() == [[6, 7, 0, NO, 9, NO]]
    assert labels_of_head(LABELS_BT, SEGMENTS_BT, 2).tolist() == [[7, 0, NO, NO, NO, NO]]
    assert labels_of_head(LABELS_BT, SEGMENTS_BT, 3).tolist() == [[0, NO, NO, NO, NO, NO]]


def test_padding_has_no_label_of_any_head():
    segments_BT = torch.tensor([[0, 0, 0, -1, -1, -1]])
    labels_BT = torch.tensor([[5, 6, 0, NO, NO, NO]])
    assert labels_of_head(labels_BT, segments_BT, 1).tolist() == [[6, 0, NO, NO, NO, NO]]
    counts = objective().counts(SimpleNamespace(labels_BT=labels_BT, segments_BT=segments_BT))
    assert counts.tolist() == [3, 2, 1, 1 * 2, 3 * 2]


def objective(**settings) -> NextTokens:
    return NextTokens(**{"weights": (1.0, 0.5, 0.3), "layers": 2, "balance_weight": 0.01, "z_weight": 0.001} | settings)


def test_terms_and_counts():
    of = objective()
    assert of.terms == ("next", "next2", "next3", "balance", "router_z")
    assert of.counts(BATCH).tolist() == [6, 4, 2, 1 * 2, 6 * 2]  # rows and tokens, times the layers with experts
    assert of.counts(BATCH).dtype == torch.int64


def test_weights_are_scaled_to_one_and_the_others_stay():
    assert objective().weights == pytest.approx((1 / 1.8, 0.5 / 1.8, 0.3 / 1.8, 0.01, 0.001))


def test_a_curriculum_brings_heads_in_one_after_the_other_and_weights_move_in_a_line():
    of = objective(steps=101, begins=(1, 11, 51), final_weights=(1.0, 0.0, 0.0))
    assert of.weights_at(1) == pytest.approx((1.0, 0.0, 0.0, 0.01, 0.001))
    assert of.weights_at(10)[:3] == pytest.approx((1.0, 0.0, 0.0))
    assert of.weights_at(11)[:3] == pytest.approx((1 / 1.45, 0.45 / 1.45, 0.0))       # a tenth of the way gone
    assert of.weights_at(51)[:3] == pytest.approx((1 / 1.4, 0.25 / 1.4, 0.15 / 1.4))
    assert of.weights_at(101)[:3] == of.weights[:3] == of.weights_at(500)[:3] == pytest.approx((1.0, 0.0, 0.0))


def test_a_validation_uses_the_last_steps_weights_at_every_step():
    of = objective(steps=11, final_weights=(1.0, 0.25, 0.75))
    assert of.weights[:3] == of.weights_at(11)[:3] == pytest.approx((0.5, 0.125, 0.375))
    assert of.weights_at(1)[:3] == pytest.approx((1 / 1.8, 0.5 / 1.8, 0.3 / 1.8))


def test_a_head_rests_before_it_begins_and_where_its_weight_has_gone():
    of = objective(steps=11, begins=(1, 3, 3), final_weights=(1.0, 0.5, 0.0))
    assert [step for step in range(1, 12) if of.rests(step)] == [1, 2, 11]
    assert not objective(balance_weight=0.0).rests(1)


def trainee(further: str = "parallel", **settings) -> Trainee:
    model = MoeModel(width=8, heads=2, layers=2, ff=12, experts=4, expert_ff=6, next_tokens=3, further=further)
    return Trainee(fill_initial(MoeLm(model, 10, 6, bias_speed=0.1), seed=1).double(), objective(**settings))


def sums_of(made: Trainee):
    inputs = {"ids_BT": IDS_BT, "segments_BT": SEGMENTS_BT, "positions_BT": POSITIONS_BT}
    return made(inputs=inputs, labels_BT=LABELS_BT, keys_B=None)


@pytest.mark.parametrize("further", ["parallel", "sequential"])
def test_each_heads_sum_is_that_of_its_own_labels(further: str):
    made = trainee(further)
    hidden = made.model(ids_BT=IDS_BT, segments_BT=SEGMENTS_BT, positions_BT=POSITIONS_BT, keys_B=None)
    found = sums_of(made)
    for head, hidden_BTC in enumerate(hidden.heads):
        logp_TV = made.model.logits(hidden_BTC)[0].log_softmax(-1)
        labels = labels_of_head(LABELS_BT, SEGMENTS_BT, head)[0].tolist()
        by_hand = sum(-float(logp_TV[place, label]) for place, label in enumerate(labels) if label != NO)
        assert float(found.nll[head]) == pytest.approx(by_hand, rel=1e-12)
    assert float(found.nll[3]) == pytest.approx(sum(float(one.balance) for one in hidden.routed))
    assert float(found.nll[4]) == pytest.approx(sum(float(one.router_z) for one in hidden.routed))
    assert found.seen[:, :4].sum(dim=1).tolist() == [12, 12] and found.seen[:, 4].tolist() == [6, 6]


@pytest.mark.parametrize("further", ["parallel", "sequential"])
def test_an_idle_head_takes_part_with_a_gradient_of_zeros(further: str):
    made = trainee(further, begins=(1, 5, 5), steps=9)
    sums = sums_of(made)
    loss_law(sums.nll, made.objective.counts(BATCH), made.objective.weights_at(4)).backward()
    grads = {name: parameter.grad for name, parameter in made.model.named_parameters()}
    assert all(grad is not None for grad in grads.values())
    assert not any(bool(grad.any()) for name, grad in grads.items() if name.startswith("further."))
    assert bool(grads["blocks.0.ff.experts.down"].any())
    made.zero_grad()
    loss_law(sums_of(made).nll, made.objective.counts(BATCH), made.objective.weights_at(5)).backward()
    assert all(bool(p.grad.any()) for name, p in made.model.named_parameters() if name.startswith("further."))

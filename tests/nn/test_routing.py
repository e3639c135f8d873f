"""Routing: what is chosen, with which weight, and what it adds up to, in numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dstrain.nn.routing import Real, Router

LN = math.log


def router(top_k: int = 1, bias_speed: float = 0.1) -> Router:
    """Three experts over two channels: its logits are x_0, x_1 and 0."""
    made = Router(2, 3, top_k, bias_speed).double()
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    return made


def everything(rows: int, length: int) -> Real:
    return Real.where(torch.ones(rows, length, dtype=torch.bool))


# probabilities 4/7 2/7 1/7 and 1/4 1/2 1/4
TWO = torch.tensor([[LN(4), LN(2)], [0.0, LN(2)]], dtype=torch.float64)


def test_a_token_goes_to_its_best_experts_with_their_probabilities_scaled_to_one():
    chosen_NK, gates_NK, _ = router(top_k=2)(TWO, everything(1, 2))
    assert chosen_NK.tolist()[0] == [0, 1] and chosen_NK.tolist()[1][0] == 1
    assert all(of_one == pytest.approx([2 / 3, 1 / 3]) for of_one in gates_NK.tolist())


def test_a_router_of_one_expert_learns_from_what_is_predicted():
    """Scaled to sum 1, its weight would be 1 wherever the token goes."""
    made = router(top_k=1)
    made(TWO, everything(1, 2))[1].sum().backward()
    assert bool(made.weight.grad.abs().amax() > 0.01)


def test_the_bias_decides_who_is_chosen_and_changes_no_weight():
    made = router(bias_speed=0.1)
    made.nudges.copy_(torch.tensor([0, 3, 0]))          # 4/7 against 2/7 + 0.3
    chosen_NK, gates_NK, _ = made(TWO[:1], everything(1, 1))
    assert chosen_NK.tolist() == [[1]] and gates_NK.tolist() == [[pytest.approx(2 / 7)]]
    made.nudges.copy_(torch.tensor([0, 2, 0]))          # 4/7 against 2/7 + 0.2
    assert made(TWO[:1], everything(1, 1))[0].tolist() == [[0]]


def test_gates_are_finite_where_the_bias_sends_a_token_to_experts_of_probability_0():
    made = Router(2, 3, 2, bias_speed=1.0)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    made.nudges.copy_(torch.tensor([-5, 5, 5]))
    chosen_NK, gates_NK, _ = made(torch.tensor([[200.0, 1.0]]), everything(1, 1))
    assert sorted(chosen_NK.tolist()[0]) == [1, 2]
    assert sorted(gates_NK.tolist()[0]) == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])


def test_balance_and_z_by_hand():
    _, _, routed = router(top_k=1)(TWO, everything(1, 2))
    shares, means = (1 / 2, 1 / 2, 0), ((4 / 7 + 1 / 4) / 2, (2 / 7 + 1 / 2) / 2, (1 / 7 + 1 / 4) / 2)
    assert float(routed.balance) == pytest.approx(3 * sum(s * m for s, m in zip(shares, means)))
    assert float(routed.router_z) == pytest.approx(LN(7) ** 2 + LN(4) ** 2)
    entropy = [sum(-p * LN(p) for p in probs) for probs in ((4 / 7, 2 / 7, 1 / 7), (1 / 4, 1 / 2, 1 / 4))]
    assert routed.seen_X.tolist() == pytest.approx([1, 1, 0, 2, sum(entropy)])


def test_the_balance_is_one_for_each_row_whose_tokens_are_spread_evenly():
    even = torch.tensor([[9.0, 0.0], [0.0, 9.0], [-9.0, -9.0]], dtype=torch.float64)
    for rows in (1, 4):
        _, _, routed = router()(even.repeat(rows, 1), everything(rows, 3))
        assert float(routed.balance) == pytest.approx(rows, rel=1e-3)
    _, _, routed = router()(even[:1].repeat(3, 1), everything(1, 3))
    assert float(routed.balance) == pytest.approx(3, rel=1e-3)  # all to one of three


def test_rows_are_balanced_each_by_itself_however_they_are_batched():
    rows = [torch.tensor([[3.0, 0.0], [0.5, 1.0], [0.0, -1.0]]).double(), torch.tensor([[0.0, 2.0]]).double(),
            torch.tensor([[-1.0, 0.5], [2.0, 2.0]]).double()]
    is_real_BT = torch.arange(3) < torch.tensor([[3], [1], [2]])
    _, _, together = router(top_k=2)(torch.cat(rows), Real.where(is_real_BT))
    alone = [router(top_k=2)(row, everything(1, len(row)))[2] for row in rows]
    for name in ("balance", "router_z", "seen_X"):
        by_rows = sum(getattr(one, name) for one in alone)
        torch.testing.assert_close(getattr(together, name), by_rows, rtol=1e-13, atol=0)


def test_a_step_nudges_each_expert_once_towards_its_share():
    made = router()
    made.balance_after_step(torch.tensor([5.0, 3.0, 1.0]))           # the mean is 3
    assert made.nudges.tolist() == [-1, 0, 1]
    made.balance_after_step(torch.tensor([0.0, 0.0, 3e9]))
    assert made.nudges.tolist() == [0, 1, 0]
    assert made.bias_E(torch.float32).tolist() == pytest.approx([0.0, 0.1, 0.0])


def test_scores_are_in_fp32_in_a_model_that_computes_in_bf16():
    """Logits 1.000 and 1.002 are one number in bf16: an expert would be chosen by its place."""
    made = Router(2, 2, 1, 0.0).bfloat16()
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    x_NC = torch.tensor([[1.0, 0.002]]).bfloat16()
    assert made(x_NC, everything(1, 1))[0].tolist() == [[1]]
    assert made(x_NC, everything(1, 1))[1].dtype == torch.float32 and made.nudges.dtype == torch.int64


def test_the_bias_has_no_gradient_and_the_terms_have():
    made = router()
    _, _, routed = made(TWO, everything(1, 2))
    (routed.balance + routed.router_z).backward()
    assert bool(made.weight.grad.any()) and not routed.seen_X.requires_grad

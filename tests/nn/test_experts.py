"""Experts: equal to a loop over tokens, forward and gradients, however unevenly tokens are spread."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dstrain.nn.expert_block import RoutedFeedForward
from dstrain.nn.experts import Experts, grouped_linear, inverse, permuted
from dstrain.nn.init import initial_weight
from dstrain.nn.routing import Real

WIDTH, EXPERTS, FF = 6, 5, 4


def layer(top_k: int = 2, shared: int = 0) -> RoutedFeedForward:
    made = RoutedFeedForward(WIDTH, EXPERTS, top_k, FF, shared, bias_speed=1.0).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(initial_weight(name, parameter.shape, 0.5, seed=1))
    return made


def batch() -> tuple[Tensor, Tensor]:
    """(x [2, 7, C], which positions are real: 7 and 3 of them)."""
    x_BTC = initial_weight("x", (2, 7, WIDTH), 1.0, seed=2).double()
    return x_BTC, torch.arange(7) < torch.tensor([[7], [3]])


def by_a_loop_over_tokens(made: RoutedFeedForward, x_BTC: Tensor, is_real_BT: Tensor) -> Tensor:
    """Each real token by itself: softmax, its best experts with the bias, their probabilities scaled to sum 1; of a
    single one the probability itself."""
    rows = []
    for x_TC, real_T in zip(x_BTC, is_real_BT):
        row = []
        for x_C, real in zip(x_TC, real_T.tolist()):
            if not real:
                row.append(torch.zeros_like(x_C))
                continue
            probs_E = (made.router.weight @ x_C).softmax(dim=0)
            best = sorted(range(EXPERTS), key=lambda e: -float(probs_E[e] + made.router.nudges[e]))[:made.router.top_k]
            whole = probs_E[best].sum() if len(best) > 1 else 1
            y_C = sum(probs_E[e] / whole * swiglu(x_C, made.experts.gate_up[e], made.experts.down[e]) for e in best)
            if made.shared is not None:
                y_C = y_C + swiglu(x_C, made.shared.gate_up.weight, made.shared.down.weight)
            row.append(y_C)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def swiglu(x_C: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (gate_up @ x_C).chunk(2)
    return down @ (F.silu(gate) * up)


@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("nudges", [(0, 0, 0, 0, 0), (9, 0, 0, 0, 0), (0, -9, 7, 0, -9)],
                         ids=["as scored", "one gets all", "two get none"])
def test_outputs_and_gradients_are_those_of_a_loop_over_tokens(top_k: int, shared: int, nudges: tuple[int, ...]):
    made, (x_BTC, is_real_BT) = layer(top_k, shared), batch()
    made.router.nudges.copy_(torch.tensor(nudges))
    x_BTC.requires_grad_()
    pull_BTC = initial_weight("pull", x_BTC.shape, 1.0, seed=3).double()
    wanted = [x_BTC, *made.parameters()]
    expected_BTC = by_a_loop_over_tokens(made, x_BTC, is_real_BT)
    expected = torch.autograd.grad((expected_BTC * pull_BTC).sum(), wanted, allow_unused=True, materialize_grads=True)
    found_BTC, routed = made(x_BTC, Real.where(is_real_BT))
    found = torch.autograd.grad((found_BTC * pull_BTC).sum(), wanted)
    assert int(routed.seen_X[:EXPERTS].sum()) == 10 * top_k
    if nudges[0] == 9:
        assert int(routed.seen_X[0]) == 10
    if nudges[1] == -9 and top_k < EXPERTS:
        assert routed.seen_X[1] == routed.seen_X[4] == 0
    torch.testing.assert_close(found_BTC, expected_BTC, rtol=1e-12, atol=1e-13)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_an_expert_without_tokens_has_a_gradient_of_zeros_and_so_has_a_batch_without_any():
    made, (x_BTC, is_real_BT) = layer(), batch()
    made.router.nudges.copy_(torch.tensor([9, 9, 0, 0, 0]))
    for real in (is_real_BT, torch.zeros_like(is_real_BT)):
        made.zero_grad(set_to_none=True)
        y_BTC, routed = made(x_BTC, Real.where(real))
        (y_BTC.sum() + routed.balance + routed.router_z).backward()
        assert all(parameter.grad is not None for parameter in made.parameters())
        assert not made.experts.gate_up.grad[2:].any() and not made.experts.down.grad[2:].any()
        assert bool(made.experts.down.grad[:2].any()) == bool(real.any())


def test_what_stands_in_padding_reaches_nothing():
    made, (x_BTC, is_real_BT) = layer(shared=1), batch()
    before, routed = made(x_BTC, Real.where(is_real_BT))
    other_BTC = torch.where(is_real_BT.unsqueeze(-1), x_BTC, 77.0)
    after, rerouted = made(other_BTC, Real.where(is_real_BT))
    assert torch.equal(before, after) and all(torch.equal(a, b) for a, b in zip(routed, rerouted))
    assert not before[~is_real_BT].any()


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_product_that_gpus_use_is_equal_to_rounding(dtype: torch.dtype, bound: float):
    """torch's own grouped product, in the arguments in which it is called where the device has one."""
    sizes_E = torch.tensor([3, 0, 5, 1])
    x_MI, weight_EOI = torch.randn(9, 16), torch.randn(4, 24, 16)
    x_MI, weight_EOI = (t.to(dtype).requires_grad_() for t in (x_MI, weight_EOI))
    found_MO = grouped_linear(x_MI, weight_EOI, sizes_E)
    pull_MO = torch.randn(9, 24).to(dtype)
    found = (found_MO, *torch.autograd.grad((found_MO * pull_MO).sum(), (x_MI, weight_EOI)))
    expected_MO = F.grouped_mm(x_MI, weight_EOI.transpose(1, 2), offs=sizes_E.cumsum(0).to(torch.int32))
    expected = (expected_MO, *torch.autograd.grad((expected_MO * pull_MO).sum(), (x_MI, weight_EOI)))
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) <= bound * float(other.abs().max())


def test_a_permutation_is_taken_back_and_its_gradient_too():
    order_M = torch.tensor([2, 0, 3, 1])
    x_MC = torch.arange(8.0).view(4, 2).requires_grad_()
    assert permuted(x_MC, order_M).tolist() == [[4, 5], [0, 1], [6, 7], [2, 3]]
    assert torch.equal(permuted(permuted(x_MC, order_M), inverse(order_M)), x_MC)
    permuted(x_MC, order_M)[0].sum().backward()
    assert x_MC.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


def test_the_weights_are_fused_and_named_by_what_they_are():
    shapes = {name: tuple(parameter.shape) for name, parameter in Experts(6, 5, 4).named_parameters()}
    assert shapes == {"gate_up": (5, 8, 6), "down": (5, 6, 4)}

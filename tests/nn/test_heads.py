"""The chunked loss head against torch's own cross-entropy: values, gradients, memory, dtypes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dstrain.nn.heads import IGNORED, summed_nll, summed_nll_and_best, token_nll


def problem(dtype: torch.dtype, rows: int = 3, length: int = 7, width: int = 8, vocabulary: int = 29):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels[0, 3:] = IGNORED
    labels[-1, 0] = IGNORED
    return hidden, weight, labels


def reference(hidden, weight, labels):
    return F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("chunk_rows", [1, 4, 21, 100, None])
def test_value_and_gradients_are_cross_entropys_in_float64(chunk_rows: int | None):
    hidden, weight, labels = problem(torch.float64)
    expected = torch.autograd.grad(3.0 * reference(hidden, weight, labels), (hidden, weight))
    total = summed_nll(hidden, weight, labels, chunk_rows)
    assert total.item() == pytest.approx(reference(hidden, weight, labels).item(), rel=1e-14)
    for ours, theirs in zip(torch.autograd.grad(3.0 * total, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_rows", [1, 4, None])
def test_the_best_ids_come_from_the_same_logits_and_the_sum_is_the_training_s_to_the_bit(dtype, chunk_rows):
    hidden, weight, labels = problem(dtype)
    total, best = summed_nll_and_best(hidden, weight, labels, chunk_rows)
    assert total.item() == summed_nll(hidden, weight, labels, chunk_rows).item() and not total.requires_grad
    assert torch.equal(best, (hidden @ weight.T).argmax(-1))  # of what is not scored, too


def test_gradcheck():
    hidden, weight, labels = problem(torch.float64, rows=1, length=5, width=3, vocabulary=6)
    assert torch.autograd.gradcheck(lambda h, w: summed_nll(h, w, labels, 2), (hidden, weight))


def test_float32_is_within_a_millionth_of_float64():
    exact = problem(torch.float64, rows=8, length=64, width=64, vocabulary=1000)
    hidden, weight = (tensor.detach().float().requires_grad_() for tensor in exact[:2])
    total = summed_nll(hidden, weight, exact[2])
    assert total.dtype == torch.float64
    assert total.item() == pytest.approx(summed_nll(*exact).item(), rel=1e-6)
    ours = torch.autograd.grad(total, (hidden, weight))
    theirs = torch.autograd.grad(summed_nll(*exact), exact[:2])
    for single, double in zip(ours, theirs, strict=True):
        assert ((single - double).norm() / double.norm()).item() < 1e-6


def test_equal_logits_cost_ln_of_the_vocabulary():
    labels = torch.randint(0, 50_257, (2, 3))
    total = summed_nll(torch.zeros(2, 3, 4), torch.randn(50_257, 4), labels)
    assert total.item() / 6 == pytest.approx(10.825, abs=5e-4)
    assert math.log(50_257) == pytest.approx(10.825, abs=5e-4)


def test_a_row_that_is_not_scored_gets_exactly_no_gradient_and_gives_none():
    hidden, weight, labels = problem(torch.float32)
    grad_hidden, grad_weight = torch.autograd.grad(summed_nll(hidden, weight, labels), (hidden, weight))
    assert (grad_hidden[labels == IGNORED] == 0).all() and (grad_hidden[labels != IGNORED] != 0).any(-1).all()
    changed = hidden.detach().clone()
    changed[labels == IGNORED] = 77.0
    changed.requires_grad_()
    total = summed_nll(changed, weight, labels)
    assert torch.equal(total, summed_nll(hidden, weight, labels))
    assert torch.equal(torch.autograd.grad(total, weight)[0], grad_weight)


def test_nothing_scored_is_zero_with_zero_gradients():
    hidden, weight, labels = problem(torch.float32)
    total = summed_nll(hidden, weight, torch.full_like(labels, IGNORED))
    grads = torch.autograd.grad(total, (hidden, weight))
    assert total.item() == 0.0 and all((grad == 0).all() for grad in grads)


def test_only_minus_100_is_ignored():
    hidden, weight, labels = problem(torch.float32)
    labels[1, 1] = -1
    with pytest.raises(RuntimeError, match="out of bounds"):
        summed_nll(hidden, weight, labels)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        return func(*args, **(kwargs or {}))


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's answer had, the weight's gradient apart."""

    def __init__(self, apart: torch.Size) -> None:
        super().__init__()
        self.elements, self.apart = 0, apart

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        for tensor in answer if isinstance(answer, (tuple, list)) else (answer,):
            if isinstance(tensor, torch.Tensor) and tensor.shape not in (self.apart, self.apart[::-1]):
                self.elements = max(self.elements, tensor.numel())
        return answer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_of_all_positions_never_exist_at_once(dtype: torch.dtype):
    hidden, weight, labels = problem(dtype, rows=16, length=16, width=8, vocabulary=5000)
    with LargestTensor(weight.shape) as seen:
        summed_nll(hidden, weight, labels, chunk_rows=32).backward()
    assert seen.elements == 32 * 5000                                   # of 256 * 5000
    with LargestTensor(weight.shape) as seen:
        reference(hidden, weight, labels).backward()
    assert seen.elements == 256 * 5000                                  # what the counter shows without chunks


def test_by_default_a_chunk_stays_below_50_mib():
    hidden, weight, labels = problem(torch.float32, rows=2, length=256, width=2, vocabulary=50_257)
    with LargestTensor(weight.shape) as seen:
        summed_nll(hidden, weight, labels)
    assert 25 * 2**20 < seen.elements * 4 <= 50 * 2**20


def test_without_gradients_none_are_computed():
    hidden, weight, labels = problem(torch.float32)
    with torch.no_grad(), Products() as products:
        assert not summed_nll(hidden, weight, labels).requires_grad
    assert products.count == 1                                          # the logits
    with Products() as products:
        assert not summed_nll(hidden.detach(), weight.detach(), labels).requires_grad
    assert products.count == 1
    with Products() as products:
        total = summed_nll(hidden.detach(), weight, labels)
        assert torch.autograd.grad(total, weight)[0].shape == weight.shape
    assert products.count == 2                                          # the weight's gradient, not the hidden states'


def test_the_backward_pass_does_not_touch_the_weight():
    # Under ZeRO-3 the weight is an empty shard by then.
    hidden, weight, labels = problem(torch.float64)
    expected = torch.autograd.grad(summed_nll(hidden, weight, labels), hidden)[0]
    total = summed_nll(hidden, weight, labels)
    weight.data = torch.empty(0, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(total, hidden)[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loss_scale_reaches_the_gradients_before_they_are_rounded(dtype: torch.dtype):
    hidden, weight, labels = problem(dtype)
    tiny = 2.0**-30                                                     # below fp16's smallest number, 2^-24
    total = summed_nll(hidden, weight, labels)
    ours = torch.autograd.grad(total * tiny * (1.0 / tiny), (hidden, weight))
    plain = torch.autograd.grad(summed_nll(hidden, weight, labels), (hidden, weight))
    assert all(torch.equal(scaled, grad) and grad.dtype == dtype for scaled, grad in zip(ours, plain, strict=True))
    # A probability of 3e-7 is five times fp16's smallest number: as it stands it would be 2.6 % off.
    logit = torch.tensor([[[15.0]]], dtype=dtype, requires_grad=True)
    two = torch.tensor([[1.0], [0.0]], dtype=dtype, requires_grad=True)
    nll = summed_nll(logit, two, torch.tensor([[0]]))
    grad = torch.autograd.grad(nll * 2.0**16, two)[0][1].item()
    assert grad == pytest.approx(15.0 * math.exp(-15) * 2**16, rel=0.01)


def test_bf16_is_near_float64_and_returns_bf16_gradients():
    exact = problem(torch.float64, rows=4, length=64, width=64, vocabulary=9000)
    exact = (exact[0], (exact[1].detach() * 0.1).requires_grad_(), exact[2])
    hidden, weight = (tensor.detach().bfloat16().requires_grad_() for tensor in exact[:2])
    total = summed_nll(hidden, weight, exact[2], chunk_rows=100)
    assert total.item() == pytest.approx(summed_nll(*exact).item(), rel=1e-3)
    ours = torch.autograd.grad(total, (hidden, weight))
    theirs = torch.autograd.grad(summed_nll(*exact), exact[:2])
    for low, high in zip(ours, theirs, strict=True):
        assert low.dtype == torch.bfloat16
        assert ((low - high).norm() / high.norm()).item() < 0.01


def test_the_weights_gradient_is_summed_in_fp32_over_the_chunks():
    # 1,024 equal rows: a sum in bf16 would stop growing when a row is less than half its last bit.
    hidden = torch.ones(1, 1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    summed_nll(hidden, weight, torch.zeros(1, 1024, dtype=torch.long), chunk_rows=1).backward()
    assert weight.grad.tolist() == [[-512.0], [512.0]]


def test_under_autocast_products_are_bf16_and_gradients_come_back_in_fp32():
    hidden, weight, labels = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = summed_nll(hidden, weight, labels)
    grads = torch.autograd.grad(total, (hidden, weight))
    assert all(grad.dtype == torch.float32 for grad in grads)
    low = summed_nll(hidden.detach().bfloat16(), weight.detach().bfloat16(), labels)
    assert total.item() == low.item() != summed_nll(hidden, weight, labels).item()


def test_mixed_dtypes_are_refused():
    hidden, weight, labels = problem(torch.float32)
    with pytest.raises(TypeError, match="bfloat16"):
        summed_nll(hidden, weight.bfloat16(), labels)


@pytest.mark.parametrize("chunk_rows", [4, None])
def test_token_nll_is_each_positions_own_part(chunk_rows: int | None):
    hidden, weight, labels = problem(torch.float64)
    nll_BT = token_nll(hidden, weight, labels, chunk_rows)
    assert nll_BT.shape == labels.shape and (nll_BT[labels == IGNORED] == 0).all()
    assert nll_BT.sum().item() == pytest.approx(summed_nll(hidden, weight, labels).item(), rel=1e-14)
    log_p = torch.log_softmax(hidden[1, 2] @ weight.T, -1)[labels[1, 2]].item()
    assert nll_BT[1, 2].item() == pytest.approx(-log_p, rel=1e-13)


def test_an_overflow_where_nothing_is_scored_reaches_no_fp16_gradient():
    hidden_BTD = torch.ones(1, 4, 8, dtype=torch.float16)
    hidden_BTD[0, 2] = 60000.0                                     # its logits are Inf in fp16
    hidden_BTD.requires_grad_()
    weight_VD = torch.full((5, 8), 2.0, dtype=torch.float16, requires_grad=True)
    labels_BT = torch.tensor([[1, 2, -100, 3]])
    summed_nll(hidden_BTD, weight_VD, labels_BT).backward()
    assert torch.isfinite(weight_VD.grad).all() and torch.isfinite(hidden_BTD.grad).all()

"""The loss head's second sum, for label smoothing, against a plain formula: each of the two has its own gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dstrain.nn import heads
from dstrain.nn.heads import IGNORED, summed_nll, summed_nll_and_spread

@pytest.fixture(autouse=True, params=["as on a CPU", "as on a GPU"])
def computed(request, monkeypatch):
    """On a GPU the positions that are not scored are computed, too."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(heads, "_worth_computing", lambda labels_N: torch.arange(len(labels_N)))


SCALES = [(1.0, 0.0), (0.0, 1.0), (0.9, 0.1), (-2.0, 3.0), (0.5, -0.5)]


def problem(dtype: torch.dtype, rows: int = 3, length: int = 7, width: int = 8, vocabulary: int = 29,
            size: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).mul_(size).to(dtype)
    labels = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels[0, 3:] = IGNORED
    labels[-1, 0] = IGNORED
    labels[1, 1:4] = labels[1, 0]                                       # one label several times
    return hidden, weight.requires_grad_(), labels


def reference(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    log_p = (hidden @ weight.T).log_softmax(-1)[labels != IGNORED]
    return -log_p.gather(1, labels[labels != IGNORED].unsqueeze(1)).sum(), -log_p.mean(-1).sum()


def gradients(head, scales: tuple[float, float], hidden: Tensor, weight: Tensor, labels: Tensor, *chunk_rows):
    nll, spread = head(hidden, weight, labels, *chunk_rows)
    return torch.autograd.grad(scales[0] * nll + scales[1] * spread, (hidden, weight))


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("chunk_rows", [1, 4, 21, 100, None])
def test_both_sums_and_any_mixture_of_their_gradients_are_the_plain_formulas(chunk_rows: int | None, scales):
    values = problem(torch.float64)
    for ours, theirs in zip(summed_nll_and_spread(*values, chunk_rows), reference(*values), strict=True):
        assert ours.dtype == torch.float64 and ours.item() == pytest.approx(theirs.item(), rel=1e-14)
    for ours, theirs in zip(gradients(summed_nll_and_spread, scales, *values, chunk_rows),
                            gradients(reference, scales, *values), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("which", [0, 1, slice(None)])
def test_gradcheck(which):
    hidden, weight, labels = problem(torch.float64, rows=2, length=4, width=3, vocabulary=6)
    assert torch.autograd.gradcheck(lambda h, w: summed_nll_and_spread(h, w, labels, 3)[which], (hidden, weight))


def test_the_mixture_is_torchs_label_smoothing():
    hidden, weight, labels = problem(torch.float64)
    nll, spread = summed_nll_and_spread(hidden, weight, labels)
    theirs = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), ignore_index=IGNORED,
                             reduction="sum", label_smoothing=0.1)
    assert (0.9 * nll + 0.1 * spread).item() == pytest.approx(theirs.item(), rel=1e-14)


def test_equal_logits_cost_ln_of_the_vocabulary_both_ways():
    nll, spread = summed_nll_and_spread(torch.zeros(2, 3, 4), torch.randn(8192, 4), torch.randint(0, 8192, (2, 3)))
    assert nll.item() / 6 == pytest.approx(math.log(8192), rel=1e-6) and spread.item() == pytest.approx(nll.item())


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("dtype, sums_within, gradients_within", [
    (torch.float32, 1e-6, 1e-6), (torch.bfloat16, 5e-3, 0.01), (torch.float16, 1e-3, 2e-3)], ids=str)
def test_every_dtype_is_near_float64(dtype: torch.dtype, sums_within: float, gradients_within: float, scales):
    low = problem(dtype, rows=8, length=64, width=64, vocabulary=1000, size=0.1)
    exact = [tensor.detach().double().requires_grad_() for tensor in low[:2]] + [low[2]]
    for ours, theirs in zip(summed_nll_and_spread(*low, 100), reference(*exact), strict=True):
        assert ours.dtype == torch.float64 and ours.item() == pytest.approx(theirs.item(), rel=sums_within)
    for ours, theirs in zip(gradients(summed_nll_and_spread, scales, *low, 100), gradients(reference, scales, *exact),
                            strict=True):
        assert ours.dtype == dtype and ((ours - theirs).norm() / theirs.norm()).item() < gradients_within


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_first_sum_is_to_the_bit_that_of_the_head_without_smoothing(dtype: torch.dtype):
    values = problem(dtype)
    assert torch.equal(summed_nll_and_spread(*values)[0], summed_nll(*values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_row_that_is_not_scored_gets_exactly_no_gradient_and_gives_none(dtype: torch.dtype):
    hidden, weight, labels = problem(dtype)
    before = gradients(summed_nll_and_spread, (0.9, 0.1), hidden, weight, labels)
    assert (before[0][labels == IGNORED] == 0).all() and (before[0][labels != IGNORED] != 0).any(-1).all()
    changed = hidden.detach().clone()
    changed[labels == IGNORED] = 60_000.0                               # in fp16 its logits are Inf
    changed.requires_grad_()
    after = gradients(summed_nll_and_spread, (0.9, 0.1), changed, weight, labels)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    for one, other in zip(summed_nll_and_spread(hidden, weight, labels),
                          summed_nll_and_spread(changed, weight, labels), strict=True):
        assert torch.equal(one, other)


def test_nothing_scored_is_zero_with_zero_gradients():
    hidden, weight, labels = problem(torch.float32)
    nothing = torch.full_like(labels, IGNORED)
    assert [total.item() for total in summed_nll_and_spread(hidden, weight, nothing)] == [0.0, 0.0]
    assert all((grad == 0).all() for grad in gradients(summed_nll_and_spread, (0.9, 0.1), hidden, weight, nothing))


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        return func(*args, **(kwargs or {}))


def test_smoothing_costs_no_matrix_product_and_what_is_not_asked_for_none():
    hidden, weight, labels = problem(torch.float32)
    for inputs, products in (((hidden, weight), 3), ((hidden.detach(), weight), 2), ((hidden, weight.detach()), 2),
                             ((hidden.detach(), weight.detach()), 1)):
        with Products() as counted:
            summed_nll_and_spread(*inputs, labels)
        assert counted.count == products
    with torch.no_grad(), Products() as counted:
        assert not summed_nll_and_spread(hidden, weight, labels)[1].requires_grad
    assert counted.count == 1


def test_the_backward_pass_does_not_touch_the_weight():
    # Under ZeRO-3 the weight is an empty shard by then.
    hidden, weight, labels = problem(torch.float64)
    expected = gradients(summed_nll_and_spread, (0.9, 0.1), hidden, weight, labels)[0]
    nll, spread = summed_nll_and_spread(hidden, weight, labels)
    weight.data = torch.empty(0, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(0.9 * nll + 0.1 * spread, hidden)[0], expected)


def test_the_logits_of_all_positions_never_exist_at_once():
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            answer = func(*args, **(kwargs or {}))
            sizes.extend(tensor.numel() for tensor in (answer if isinstance(answer, (tuple, list)) else (answer,))
                         if isinstance(tensor, Tensor) and tensor.shape not in ((5000, 8), (8, 5000)))
            return answer

    values = problem(torch.float32, rows=16, length=16, width=8, vocabulary=5000)
    with Sizes():
        gradients(summed_nll_and_spread, (0.9, 0.1), *values, 32)
    assert 30 * 5000 < max(sizes) <= 32 * 5000                          # of 256 * 5000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_loss_scale_reaches_the_gradients_before_they_are_rounded(dtype: torch.dtype):
    hidden, weight, labels = problem(dtype)
    tiny = 2.0**-30                                                     # below fp16's smallest number, 2^-24
    nll, spread = summed_nll_and_spread(hidden, weight, labels)
    ours = torch.autograd.grad((nll * 0.875 * tiny + spread * 0.125 * tiny) * (1 / tiny), (hidden, weight))
    plain = gradients(summed_nll_and_spread, (0.875, 0.125), hidden, weight, labels)
    assert all(torch.equal(scaled, grad) for scaled, grad in zip(ours, plain, strict=True))


def test_under_autocast_products_are_bf16_and_gradients_come_back_in_fp32():
    hidden, weight, labels = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = summed_nll_and_spread(hidden, weight, labels)
    assert all(grad.dtype == torch.float32 for grad in torch.autograd.grad(sums[0] + sums[1], (hidden, weight)))
    low = summed_nll_and_spread(hidden.detach().bfloat16(), weight.detach().bfloat16(), labels)
    assert [one.item() for one in sums] == [one.item() for one in low]
    assert sums[1].item() != summed_nll_and_spread(hidden, weight, labels)[1].item()


def test_mixed_dtypes_are_refused():
    hidden, weight, labels = problem(torch.float32)
    with pytest.raises(TypeError, match="bfloat16"):
        summed_nll_and_spread(hidden, weight.bfloat16(), labels)

"""The loss heads: summed negative log-likelihoods, without ever holding the logits of all positions.

Shapes: B rows, T positions, D channels, V vocabulary, N = B * T, M of these, R of a chunk, r of a slice
of one.

For each chunk the gradients of hidden states and weight are computed in the forward pass, while the chunk's logits are
there: logits are neither kept nor recomputed, and the backward pass only scales what was saved. It therefore does not
touch the weight, which under ZeRO-3 is no longer there then.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100                      # the one label that is not scored
_CHUNK_BYTES = 50 * 2**20           # 256 positions of 50,257 fp32 logits: measured best; half of it costs 5 % more
_FP16_UNIT = 16.0                   # probabilities around 1e-5 would lose bits in fp16: it is carried 16 times as large
_ACCUMULATED_ROWS = 4096            # of a 16-bit product that is added to an fp32 sum while it is in the cache
_SLICE_BYTES = 2**20                # the softmax of so many fp32 logits stays in a CPU's cache


@torch.compiler.disable                 # matrix products dominate, and its loop would be unrolled into a huge graph
def summed_nll(hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, chunk_rows: int | None = None) -> Tensor:
    """A float64 scalar: the sum of -log p(label) over all labels but -100, where logits = hidden @ weight^T.

    Matrix products are in the dtype of hidden and weight, the softmax in fp32 (fp64 for fp64), and gradients are
    saved in the same, so that a loss scale reaches them before they are rounded to 16 bits.
    """
    return _SummedNll.apply(hidden_BTD, weight_VD, labels_BT, chunk_rows, *_how(hidden_BTD, weight_VD))


@torch.compiler.disable
def summed_nll_and_spread(hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor,
                          chunk_rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Two float64 scalars over the scored positions, for label smoothing: `summed_nll`, and the sum of the mean over
    the vocabulary of -log p. Each has its own gradient; a second matrix product of a chunk serves neither."""
    return _NllAndSpread.apply(hidden_BTD, weight_VD, labels_BT, chunk_rows, *_how(hidden_BTD, weight_VD))


@torch.no_grad()
def token_nll(hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, chunk_rows: int | None = None) -> Tensor:
    """[B, T] in fp32 (fp64 for fp64): each position's -log p(label), 0 where the label is -100. No gradients."""
    hidden_ND, labels_N = hidden_BTD.flatten(0, -2), labels_BT.flatten()
    nll_N = torch.empty(labels_N.shape, dtype=_softmax_dtype(hidden_ND.dtype), device=hidden_ND.device)
    for chunk, logits_RV in _chunks(hidden_ND, weight_VD, chunk_rows):
        nll_N[chunk] = _nll(logits_RV, labels_N[chunk], leave_gradient=False)
    return nll_N.view(labels_BT.shape)


@torch.compiler.disable
@torch.no_grad()
def summed_nll_and_best(hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor,
                        chunk_rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Without gradients: `summed_nll`, to the bit, and [B, T] the id of each position's largest logit, scored or not;
    both from the same logits."""
    dtype, _ = _how(hidden_BTD, weight_VD)
    hidden_ND, weight_VD, labels_N = hidden_BTD.flatten(0, -2).to(dtype), weight_VD.to(dtype), labels_BT.flatten()
    total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
    best_N = torch.empty_like(labels_N, dtype=torch.int64)
    for chunk, logits_RV in _chunks(hidden_ND, weight_VD, chunk_rows):
        best_N[chunk] = logits_RV.argmax(dim=-1)
        total += _nll(logits_RV, labels_N[chunk], leave_gradient=False).sum(dtype=torch.float64)
    return total, best_N.view(labels_BT.shape)


class _SummedNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, chunk_rows: int | None,
                dtype: torch.dtype, with_gradients: bool) -> Tensor:
        ctx.shape, ctx.hidden_dtype, ctx.weight_dtype = hidden_BTD.shape, hidden_BTD.dtype, weight_VD.dtype
        hidden_ND, weight_VD, labels_N = hidden_BTD.flatten(0, -2).to(dtype), weight_VD.to(dtype), labels_BT.flatten()
        exact = _softmax_dtype(dtype)
        for_hidden = with_gradients and ctx.needs_input_grad[0]
        for_weight = with_gradients and ctx.needs_input_grad[1]
        grad_hidden_ND = torch.empty_like(hidden_ND, dtype=exact) if for_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=exact) if for_weight else None
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        for chunk, logits_RV in _chunks(hidden_ND, weight_VD, chunk_rows):
            nll_R = _nll(logits_RV, labels_N[chunk], leave_gradient=for_hidden or for_weight)
            total += nll_R.sum(dtype=torch.float64)
            # Rows that are not scored are taken out on the narrow side of the products: D channels, not V.
            scored_R1 = (labels_N[chunk] != IGNORED).unsqueeze(1)
            if for_hidden:
                grad_hidden_ND[chunk] = torch.where(scored_R1, logits_RV @ weight_VD, 0)
            if for_weight:
                _accumulate(grad_weight_VD, logits_RV, torch.where(scored_R1, hidden_ND[chunk], 0))
        ctx.unit = _unit(dtype)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return total

    @staticmethod
    def backward(ctx, scale: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        scale = scale / ctx.unit
        if grad_hidden_ND is not None:
            grad_hidden_ND = (grad_hidden_ND * scale).to(ctx.hidden_dtype).view(ctx.shape)
        if grad_weight_VD is not None:
            grad_weight_VD = (grad_weight_VD * scale).to(ctx.weight_dtype)
        return grad_hidden_ND, grad_weight_VD, None, None, None, None


class _NllAndSpread(torch.autograd.Function):
    """With p the softmax, the logits' gradients are p - onehot(label) and p - 1 / V.

    Both hold p, whose products with weight and hidden states are the only costly ones. What is taken away from them
    is a sum of rows, made apart and in the exact dtype.
    """

    @staticmethod
    def forward(ctx, hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, chunk_rows: int | None,
                dtype: torch.dtype, with_gradients: bool) -> tuple[Tensor, Tensor]:
        ctx.shape, ctx.hidden_dtype, ctx.weight_dtype = hidden_BTD.shape, hidden_BTD.dtype, weight_VD.dtype
        places_M = _worth_computing(labels_BT.flatten())
        hidden_MD, weight_VD = hidden_BTD.flatten(0, -2)[places_M].to(dtype), weight_VD.to(dtype)
        labels_M, exact = labels_BT.flatten()[places_M], _softmax_dtype(dtype)
        scored_M1 = (labels_M != IGNORED).unsqueeze(1)
        index_M = torch.where(scored_M1.squeeze(1), labels_M, 0)
        by_p_MD = by_label_MD = mean_D = by_p_VD = by_label_VD = sum_D = None
        if with_gradients and ctx.needs_input_grad[0]:
            by_p_MD = torch.empty_like(hidden_MD, dtype=exact)
            by_label_MD = torch.where(scored_M1, weight_VD[index_M].to(exact), 0)
            mean_D = weight_VD.mean(0, dtype=exact)
        if with_gradients and ctx.needs_input_grad[1]:
            by_p_VD = torch.zeros_like(weight_VD, dtype=exact)
            scored_MD = torch.where(scored_M1, hidden_MD, 0).to(exact)
            by_label_VD = torch.zeros_like(by_p_VD).index_add_(0, index_M, scored_MD)
            sum_D = scored_MD.sum(0)
        totals = torch.zeros(2, dtype=torch.float64, device=hidden_MD.device)
        for chunk, logits_RV in _chunks(hidden_MD, weight_VD, chunk_rows):
            both_2R = _nll_and_spread(logits_RV, labels_M[chunk], by_p_MD is not None or by_p_VD is not None)
            totals += both_2R.sum(1, dtype=torch.float64)
            if by_p_MD is not None:
                by_p_MD[chunk] = torch.where(scored_M1[chunk], logits_RV @ weight_VD, 0)
            if by_p_VD is not None:
                _accumulate(by_p_VD, logits_RV, torch.where(scored_M1[chunk], hidden_MD[chunk], 0))
        ctx.unit, ctx.vocabulary = _unit(dtype), weight_VD.shape[0]
        ctx.save_for_backward(places_M, scored_M1, by_p_MD, by_label_MD, mean_D, by_p_VD, by_label_VD, sum_D)
        return totals[0], totals[1]

    @staticmethod
    def backward(ctx, nll_scale: Tensor, spread_scale: Tensor
                 ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        places_M, scored_M1, by_p_MD, by_label_MD, mean_D, by_p_VD, by_label_VD, sum_D = ctx.saved_tensors
        both_scale = (nll_scale + spread_scale) / ctx.unit
        grad_hidden = grad_weight = None
        if by_p_MD is not None:
            taken_MD = (by_label_MD * nll_scale).add_(scored_M1 * (mean_D * spread_scale))
            grad_MD = (by_p_MD * both_scale).sub_(taken_MD).to(ctx.hidden_dtype)
            grad_hidden = grad_MD.new_zeros(ctx.shape)
            grad_hidden.view(-1, ctx.shape[-1])[places_M] = grad_MD
        if by_p_VD is not None:
            taken_VD = (by_label_VD * nll_scale).add_(sum_D * (spread_scale / ctx.vocabulary))
            grad_weight = (by_p_VD * both_scale).sub_(taken_VD).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _worth_computing(labels_N: Tensor) -> Tensor:
    """[M]: on a CPU the positions that are scored; elsewhere all, for to know their number would be to wait for it."""
    if labels_N.device.type == "cpu":
        return (labels_N != IGNORED).nonzero().squeeze(1)
    return torch.arange(len(labels_N), device=labels_N.device)


def _how(hidden_BTD: Tensor, weight_VD: Tensor) -> tuple[torch.dtype, bool]:
    """The dtype of the matrix products, and whether gradients are asked for."""
    device = hidden_BTD.device.type
    under_autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if under_autocast else weight_VD.dtype
    if not under_autocast and hidden_BTD.dtype != dtype:
        raise TypeError(f"hidden states are {hidden_BTD.dtype}, the output weight is {dtype}: cast one of them")
    return dtype, torch.is_grad_enabled() and (hidden_BTD.requires_grad or weight_VD.requires_grad)


def _accumulate(grad_weight_VD: Tensor, grad_logits_RV: Tensor, hidden_RD: Tensor) -> None:
    if grad_weight_VD.dtype == hidden_RD.dtype:
        grad_weight_VD.addmm_(grad_logits_RV.T, hidden_RD)
        return
    for start in range(0, grad_weight_VD.shape[0], _ACCUMULATED_ROWS):
        part = slice(start, start + _ACCUMULATED_ROWS)
        grad_weight_VD[part] += grad_logits_RV[:, part].T @ hidden_RD


def _chunks(hidden_ND: Tensor, weight_VD: Tensor, chunk_rows: int | None):
    """Yields (slice of N, its logits); the logits' buffer is one and the same, and the caller's until the next."""
    positions, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
    most = chunk_rows or max(1, _CHUNK_BYTES // (vocabulary * hidden_ND.element_size()))
    chunks = max(1, -(-positions // most))
    rows = -(-positions // chunks)
    buffer_RV = hidden_ND.new_empty(rows, vocabulary)
    for start in range(0, positions, max(1, rows)):
        chunk = slice(start, min(start + rows, positions))
        logits_RV = buffer_RV[:chunk.stop - start]
        torch.mm(hidden_ND[chunk], weight_VD.T, out=logits_RV)
        yield chunk, logits_RV


def _nll(logits_RV: Tensor, labels_R: Tensor, leave_gradient: bool) -> Tensor:
    """[R]: -log p(label), 0 where ignored.

    On request each row of logits is overwritten by the gradient of its nll, times _unit; rows that are not scored
    then hold numbers that mean nothing (0 in fp16).
    """
    rows = logits_RV.shape[0]
    step = _slice_rows(logits_RV)
    scored_R1 = (labels_R != IGNORED).unsqueeze(1)
    index_R1 = torch.where(scored_R1, labels_R.unsqueeze(1), 0)
    log_p_R1 = torch.empty(index_R1.shape, dtype=_softmax_dtype(logits_RV.dtype), device=logits_RV.device)
    unit, minus_one_R1 = _unit(logits_RV.dtype), torch.full_like(log_p_R1, -1.0)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        log_p_rV = torch.log_softmax(logits_RV[part], dim=-1, dtype=log_p_R1.dtype)
        log_p_R1[part] = log_p_rV.gather(1, index_R1[part])
        if leave_gradient:
            grad_rV = log_p_rV.exp_().scatter_add_(1, index_R1[part], minus_one_R1[part])
            if unit != 1.0:  # fp16, where logits that nobody scores may overflow: Inf times 0 would still be NaN
                grad_rV.mul_(unit).masked_fill_(~scored_R1[part], 0.0)
            logits_RV[part] = grad_rV
    return torch.where(scored_R1, -log_p_R1, 0.0).squeeze(1)


def _nll_and_spread(logits_RV: Tensor, labels_R: Tensor, leave_p: bool) -> Tensor:
    """[2, R]: -log p(label), and the mean over the vocabulary of -log p; both 0 where ignored.

    On request each row of logits is overwritten by p, times _unit; rows that are not scored as in `_nll`.
    """
    rows = logits_RV.shape[0]
    step = _slice_rows(logits_RV)
    scored_R1 = (labels_R != IGNORED).unsqueeze(1)
    index_R1 = torch.where(scored_R1, labels_R.unsqueeze(1), 0)
    log_p_R2 = torch.empty((rows, 2), dtype=_softmax_dtype(logits_RV.dtype), device=logits_RV.device)
    unit = _unit(logits_RV.dtype)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        log_p_rV = torch.log_softmax(logits_RV[part], dim=-1, dtype=log_p_R2.dtype)
        log_p_R2[part, :1] = log_p_rV.gather(1, index_R1[part])
        log_p_R2[part, 1] = log_p_rV.mean(-1)
        if leave_p:
            p_rV = log_p_rV.exp_()
            if unit != 1.0:
                p_rV.mul_(unit).masked_fill_(~scored_R1[part], 0.0)
            logits_RV[part] = p_rV
    return torch.where(scored_R1, -log_p_R2, 0.0).T


def _slice_rows(logits_RV: Tensor) -> int:
    rows, vocabulary = logits_RV.shape
    return max(1, _SLICE_BYTES // (4 * vocabulary)) if logits_RV.device.type == "cpu" else max(1, rows)


def _softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _unit(dtype: torch.dtype) -> float:
    return _FP16_UNIT if dtype == torch.float16 else 1.0

"""What the proofs on models share: runs that leave no trace, caught embeddings, changed batches, compared features."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.doctor.subject import Seen, Subject, TensorDict
from dstrain.nn.heads import IGNORED

ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""of the largest feature: what another order of sums may change, some ten to hundred units in the last place"""

EACH = 64
"""places from a row's beginning, each of which is looked at"""
BEYOND = 16
"""places that are looked at behind them"""
STIRRED = 0.05
"""of a parameter that was all zero: some steps of AdamW"""


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Mode of every part, gradients, buffers (a BatchNorm counts its batches) and generator: all as before."""
    modes = {part: part.training for part in module.modules()}
    grads = {parameter: parameter.grad for parameter in module.parameters()}
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    devices = sorted({tensor.device.index for tensor in (*grads, *buffers) if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for part, training in modes.items():
                part.training = training
            for parameter, grad in grads.items():
                parameter.grad = grad
            with torch.no_grad():
                for buffer, value in buffers.items():
                    buffer.copy_(value)


@contextmanager
def nowhere_zero(module: nn.Module, names: Collection[str] | None = None) -> Iterator[None]:
    """`untouched`, and meanwhile no parameter that is trained (or that is named) is all zero.

    A gate, a projection or a head that starts at zero, as it often should, hides at the initial weights whatever is
    right or wrong behind it; the first steps of training take it away from zero. What is frozen at zero stays there.
    """
    zero = {name: parameter for name, parameter in module.named_parameters()
            if parameter.requires_grad and parameter.is_floating_point() and not bool(parameter.detach().any())
            and (names is None or name in names)}
    with untouched(module):
        try:
            stir(zero.values())
            yield
        finally:
            with torch.no_grad():
                for parameter in zero.values():
                    parameter.zero_()


@torch.no_grad()
def stir(parameters: Iterable[Tensor]) -> None:
    """Fixed small numbers, none of them near zero: half to one and a half times STIRRED, up or down."""
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters:
        random = torch.rand(parameter.shape, generator=generator) * 2 - 1
        parameter.copy_(STIRRED * (random + random.sign() / 2))


def look(subject: Subject, batch: TensorDict | None = None, training: bool = True) -> Seen:
    """One forward pass without a graph, in training mode or in eval mode."""
    with torch.no_grad():
        return pass_through(subject, batch, training)


def pass_through(subject: Subject, batch: TensorDict | None = None, training: bool = True) -> Seen:
    """One forward pass with its graph."""
    subject.module.train(training)
    return subject.run(subject.module, subject.batch if batch is None else batch)


# Which positions are what

def ids_of(subject: Subject) -> Tensor:
    return subject.batch[subject.roles.ids]


def scored_BT(subject: Subject, head: int) -> Tensor:
    return subject.targets[head] != IGNORED


def beyond(lengths_B: Tensor, size: int) -> Tensor:
    """[B, size] where a row has ended."""
    return torch.arange(size, device=lengths_B.device) >= lengths_B[:, None]


def padding_of(subject: Subject) -> dict[str, Tensor]:
    """By name of the tokens: where they are padding. Only what has some."""
    found = {subject.roles.ids: beyond(subject.lengths_B, ids_of(subject).shape[1])}
    if subject.roles.source is not None:
        found[subject.roles.source] = beyond(subject.source_lengths_B, subject.batch[subject.roles.source].shape[1])
    if subject.roles.context is not None:
        found[subject.roles.context] = subject.context_padding_BX
    return {name: padding for name, padding in found.items() if bool(padding.any())}


def some_places(subject: Subject) -> list[int]:
    """Places t that have a later one and at which something is scored, the most telling ones first: all of the first
    64, and some spread over what lies beyond, where nobody can look at all."""
    last = int(subject.lengths_B.max()) - 1
    scored_T = torch.stack([scored_BT(subject, head).any(0) for head in range(len(subject.targets))]).any(0)
    spread = [0, 1, last // 4, last // 2, 3 * last // 4, last - 1]
    further = range(EACH, last, max(1, (last - EACH) // BEYOND))
    wished = dict.fromkeys([*spread, *further, *range(min(last, EACH))])
    return [t for t in wished if 0 <= t < last and bool(scored_T[t])]


def labels_of(subject: Subject) -> dict[str, int]:
    """By name of a tensor [B, T] that tells the model its targets: 0 where the token to be predicted at t stands at t,
    1 where it stands further on (the ids once more, which the model shifts itself)."""
    roles, ids, found = subject.roles, ids_of(subject), {}
    inputs = {roles.ids, roles.source, roles.segments, roles.context, *roles.with_source, *roles.with_context,
              *roles.chance}
    real_BT = ~beyond(subject.lengths_B, ids.shape[1])
    for name, tensor in subject.batch.items():
        if name in inputs or tensor.shape != ids.shape or tensor.is_floating_point() or tensor.dtype == torch.bool:
            continue
        told_BT = real_BT & (tensor != IGNORED)
        if bool(told_BT.any()) and torch.equal(tensor[told_BT], ids[told_BT]):
            found[name] = 1
        elif bool((tensor == IGNORED).any()) or any(_holds(tensor, target) for target in subject.targets):
            found[name] = 0
    return found


def _holds(tensor: Tensor, target: Tensor) -> bool:
    scored_BT = target != IGNORED
    return bool(scored_BT.any()) and torch.equal(tensor[scored_BT], target[scored_BT])


# Changed batches

def other_tokens(ids: Tensor, seed: int) -> Tensor:
    """Everywhere another token than the one that stands there, out of those that the tensor holds anyway."""
    known = ids[ids >= 0].unique()
    if known.numel() < 2:
        known = torch.cat([known, (known + 1 if int(known.min()) == 0 else known - 1)])
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, known.numel(), ids.shape, generator=generator).to(ids.device)
    return known[(torch.searchsorted(known, ids.clamp(min=0)) + steps) % known.numel()].to(ids.dtype)


def changed(batch: TensorDict, name: str, where: Tensor, values: Tensor) -> TensorDict:
    return {**batch, name: torch.where(where, values, batch[name])}


def picked_rows(subject: Subject, batch: TensorDict, rows: Tensor) -> TensorDict:
    """Row rows[i] as row i, of every tensor that has a row for each."""
    count = ids_of(subject).shape[0]
    return {name: tensor[rows] if tensor.ndim and tensor.shape[0] == count else tensor
            for name, tensor in batch.items()}


def cut(subject: Subject, batch: TensorDict, length: int, source_length: int | None) -> TensorDict:
    """The first `length` positions, and of the source the first `source_length`, of all tensors that go with them. A
    context stays as it is."""
    roles, (rows, size) = subject.roles, ids_of(subject).shape
    source_size = subject.batch[roles.source].shape[1] if roles.source is not None else None
    shorter = {}
    for name, tensor in batch.items():
        if name == roles.context or name in roles.with_context:
            shorter[name] = tensor
            continue
        sizes = {size: length}
        if source_size is not None:
            with_source = name == roles.source or name in roles.with_source
            sizes = {source_size: source_length} if with_source else {source_size: source_length, size: length}
        first = 1 if tensor.ndim and tensor.shape[0] in (rows, 1) else 0
        for axis in range(first, tensor.ndim):
            if sizes.get(tensor.shape[axis]) is not None:
                tensor = tensor.narrow(axis, 0, min(sizes[tensor.shape[axis]], tensor.shape[axis]))
        shorter[name] = tensor
    return shorter


def part_of(subject: Subject, rows: Tensor) -> Subject:
    """The subject on some of its rows."""
    source_lengths_B = None if subject.source_lengths_B is None else subject.source_lengths_B[rows]
    context_padding_BX = None if subject.context_padding_BX is None else subject.context_padding_BX[rows]
    return replace(subject, batch=picked_rows(subject, subject.batch, rows), lengths_B=subject.lengths_B[rows],
                   source_lengths_B=source_lengths_B, context_padding_BX=context_padding_BX,
                   targets=tuple(target[rows] for target in subject.targets))


# What an embedding is given, and what depends on what it gives

@dataclass
class Caught:
    """Calls of torch.nn.functional.embedding within a while."""

    inputs: dict[str, list[tuple[Tensor, bool]]] = field(default_factory=dict)
    """by name of the batch's tokens: zeros that were added to what they became, and whether time came first"""
    outside: set[int] = field(default_factory=set)
    """indices that no embedding has"""
    padding_ids: dict[str, set[int]] = field(default_factory=dict)
    """by name of the batch's tokens: ids whose row of the embedding gets no gradient (padding_idx)"""


@contextmanager
def embeddings_of(tokens: TensorDict) -> Iterator[Caught]:
    """Catches what becomes of these tensors in any embedding. Two of the same contents cannot be told apart."""
    caught, embedding = Caught(), F.embedding
    names = [name for name in tokens if not any(other != name and _same(tokens[name], tokens[other])
                                                for other in tokens)]

    def catching(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
                 norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:
        outside = input[(input < 0) | (input >= weight.shape[0])]
        caught.outside.update(outside.unique().tolist())
        found = embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        for name in names:
            across = _same(input, tokens[name].T)
            if across or _same(input.reshape(-1), tokens[name].reshape(-1)):
                if padding_idx is not None:
                    caught.padding_ids.setdefault(name, set()).add(padding_idx % weight.shape[0])
                if torch.is_grad_enabled():
                    probe = torch.zeros_like(found, requires_grad=True)
                    caught.inputs.setdefault(name, []).append((probe, across))
                    found = found + probe
        return found

    F.embedding = catching
    try:
        yield caught
    finally:
        F.embedding = embedding


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def tokens_of(subject: Subject, batch: TensorDict | None = None) -> TensorDict:
    batch = subject.batch if batch is None else batch
    names = (subject.roles.ids, subject.roles.source, subject.roles.context)
    return {name: batch[name] for name in names if name is not None}


def reached(output: Tensor, caught: Caught, name: str, rows: int) -> Tensor | None:
    """[B, T] how strongly `output` depends on each embedded token of that name; None where no embedding was seen."""
    inputs = caught.inputs.get(name)
    if not inputs:
        return None
    grads = torch.autograd.grad(output, [probe for probe, _ in inputs], retain_graph=True, allow_unused=True)
    total = None
    for grad, (probe, across) in zip(grads, inputs, strict=True):
        if grad is None:
            grad = torch.zeros_like(probe)
        sizes = grad.abs().sum(-1)
        sizes = sizes.T if across else sizes.reshape(rows, -1)
        total = sizes if total is None else total + sizes
    return total


def noise(features: Tensor) -> Tensor:
    """Fixed random weights, one for each feature: no difference cancels out in their weighted sum."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(features.shape[-1], generator=generator).to(features.device, features.dtype)


# Comparison

class Compared(NamedTuple):
    different: int
    """positions that changed by more than they may"""
    compared: int
    largest: float
    """change of a feature, as a share of the largest of them"""

    def __add__(self, other: "Compared") -> "Compared":
        return Compared(self.different + other.different, self.compared + other.compared,
                        max(self.largest, other.largest))


NOTHING = Compared(0, 0, 0.0)


def compare(before: Tensor, after: Tensor, where: Tensor, bound: float) -> Compared:
    """Features [.., F] at the places `where` [..]; `bound` 0 demands every bit. NaN is always different."""
    one, other = before[where], after[where]
    if one.numel() == 0:
        return NOTHING
    if bound == 0.0:
        differs = (one != other).any(-1)
    scale = float(one.abs().max()) or 1.0
    changes = (one.double() - other.double()).abs().amax(-1) / scale
    if bound > 0.0:
        differs = ~(changes <= bound)
    return Compared(int(differs.sum()), differs.numel(), float(changes.nan_to_num(nan=float("inf")).max()))


def allowed(subject: Subject, dtype: torch.dtype) -> float:
    """What contents that may not be seen may change: nothing, or the order of sums."""
    return 0.0 if subject.exact else ROUNDING[dtype]


def allowed_in_words(subject: Subject, dtype: torch.dtype) -> str:
    if subject.exact:
        return "none, to the bit"
    return f"none by more than {ROUNDING[dtype]:.0e} of the largest: the order of sums may depend on other tokens"

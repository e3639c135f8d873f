"""Every tensor of the batch is read, and what reaches an embedding is an id that it has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dstrain.doctor.finding import Finding
from dstrain.doctor.model_proofs.probes import (IGNORED, beyond, embeddings_of, ids_of, look, nowhere_zero, tokens_of)
from dstrain.doctor.subject import Subject

CLAIM = "every tensor of the batch is noticed by the loss or the logits, and no id is outside its embedding"


def prove(subject: Subject) -> Finding:
    with nowhere_zero(subject.module):
        try:
            with embeddings_of(tokens_of(subject)) as caught:
                before = look(subject)
        except (IndexError, RuntimeError):
            if not caught.outside:
                raise
            before = None
        if caught.outside:
            return _outside(caught.outside)
        numbers = [before.loss, *before.features]
        not_finite = sum(not bool(torch.isfinite(number).all()) for number in numbers)
        unread = [name for name in subject.batch if not _is_noticed(subject, name, numbers)]
    tried = len(subject.batch)
    figure = f"{len(unread)} of {tried} tensors are not noticed"
    if not unread and not not_finite:
        return Finding(True, figure, "none: what nothing reads protects nothing")
    if not_finite:
        return Finding(False, f"{figure}; {not_finite} of loss and logits are not finite", "none, and all finite",
                       "a row in which everything is masked, or weights that are too large",
                       "look for the first NaN with torch.autograd.set_detect_anomaly(True)")
    return Finding(False, f"{figure}: {', '.join(unread)}", "none: what nothing reads protects nothing",
                   f"{', '.join(unread)}: swallowed by a **kwargs on the way, overwritten, or never handed on",
                   "name it in the signature of every forward on the way, without **kwargs, and hand it on; or take it "
                   "out of the batch")


def _outside(found: set[int]) -> Finding:
    shown = ", ".join(map(str, sorted(found)[:5]))
    cause = ("labels' -100 was written before the shift, into what the model reads" if IGNORED in found else
             "the vocabulary of the tokenizer is not the model's")
    return Finding(False, f"ids that the embedding does not have: {shown}", "none", cause,
                   "shift first and ignore afterwards: inputs stay clean ids, only labels hold -100")


def _is_noticed(subject: Subject, name: str, numbers: list[Tensor]) -> bool:
    """A change that raises an error was read, too. Where documents are the logits have to know, not the loss alone."""
    if name in subject.roles.chance:
        return True
    first = 1 if name == subject.roles.segments else 0
    for other in changes_of(subject, name):
        try:
            after = look(subject, {**subject.batch, name: other})
        except (IndexError, RuntimeError, ValueError, AssertionError):
            return True
        found = [after.loss, *after.features]
        pairs = list(zip(numbers, found, strict=True))[first:]
        if any(one.shape != two.shape or not torch.equal(one, two) for one, two in pairs):
            return True
    return False


def changes_of(subject: Subject, name: str) -> list[Tensor]:
    """Changes of a tensor of which one must matter, by what it is: found from its values."""
    tensor, roles = subject.batch[name], subject.roles
    if tensor.numel() == 0:
        return [tensor]
    if name == roles.segments:
        middle_T = torch.arange(tensor.shape[1], device=tensor.device) >= int(subject.lengths_B.max()) // 2
        return [torch.where(tensor == 1, 0, tensor), torch.where((tensor >= 0) & middle_T, tensor + 1, tensor)]
    if tensor.dtype == torch.bool or _values_within(tensor, {0, 1}):
        return [_one_entry(subject, tensor, lambda value: 1 - value)] if tensor.ndim > 1 else [_flipped(tensor)]
    if tensor.is_floating_point():
        return [_one_entry(subject, tensor, lambda value: value - 1e4), tensor + 1]
    is_tokens = name in (roles.ids, roles.source, roles.context)
    if is_tokens or bool((tensor == IGNORED).any()) or _are_targets(subject, tensor):
        known = tensor[tensor >= 0]
        return [torch.where(tensor >= 0, (tensor + 1) % (int(known.max()) + 1 if known.numel() else 1), tensor)]
    if tensor.ndim == 1:
        return [tensor - 1, tensor + 1]
    return [_one_entry(subject, tensor, lambda value: value - 1), tensor.flip(1)]


def _one_entry(subject: Subject, tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Another value in the middle of the longest row, where later positions see it. Of whole maps, all their middle."""
    other = tensor.clone()
    if tensor.ndim >= 2 and tensor.shape[0] == len(subject.lengths_B):
        lengths_B = subject.lengths_B if tensor.shape[1] == ids_of(subject).shape[1] else subject.source_lengths_B
        lengths_B = subject.lengths_B if lengths_B is None else lengths_B
        row = int(lengths_B.argmax())
        middle = min(int(lengths_B[row]), tensor.shape[-1]) // 2
        other[row, ..., middle] = change(_number(tensor[row, ..., middle])).to(tensor.dtype)
        return other
    middle = tensor.shape[-1] // 2
    other[..., middle] = change(_number(tensor[..., middle])).to(tensor.dtype)
    return other


def _number(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.long()


def _flipped(tensor: Tensor) -> Tensor:
    return ~tensor if tensor.dtype == torch.bool else (1 - tensor)


def _values_within(tensor: Tensor, values: set[int]) -> bool:
    return tensor.numel() > 0 and set(tensor.unique().tolist()) <= values


def _are_targets(subject: Subject, tensor: Tensor) -> bool:
    """Labels without a single -100, right (or wrong) as they may be."""
    if tensor.ndim != 2 or tensor.shape != ids_of(subject).shape:
        return False
    real_BT = ~beyond(subject.lengths_B, tensor.shape[1])
    return any(bool((tensor == target)[real_BT & (target != IGNORED)].all()) for target in subject.targets)

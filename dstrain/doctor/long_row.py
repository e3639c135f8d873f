"""A subject's first row made as long as rows may be, where the data's own are shorter: scale hides what is small."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dstrain.doctor.model_proofs.probes import IGNORED, labels_of
from dstrain.doctor.subject import Subject


def stretched(subject: Subject, length: int) -> Subject:
    """One row (of pairs: one pair) whose tokens come again and again up to that length, each followed by the next."""
    roles, ids = subject.roles, subject.batch[subject.roles.ids]
    sizes = {roles.ids: int(subject.lengths_B[0])}
    if subject.source_lengths_B is not None:
        sizes[roles.source] = int(subject.source_lengths_B[0])
    tokens = {name: _again(subject.batch[name][0, :size], length) for name, size in sizes.items()}
    following = tokens[roles.ids].roll(-1, dims=1)
    length_B = torch.full_like(subject.lengths_B[:1], length)
    batch = {}
    for name, tensor in subject.batch.items():
        if name in tokens:
            batch[name] = tokens[name]
        elif name in labels_of(subject):
            batch[name] = following
        elif any(lengths is not None and torch.equal(tensor, lengths)
                 for lengths in (subject.lengths_B, subject.source_lengths_B)):
            batch[name] = length_B
        elif tensor.shape == ids.shape:
            batch[name] = _goes_on(tensor[0, :sizes[roles.ids]], length)
        else:
            batch[name] = tensor[:1] if tensor.ndim and tensor.shape[0] == ids.shape[0] else tensor
    source_lengths_B = None if subject.source_lengths_B is None else length_B
    ends = torch.arange(length, device=ids.device) == length - 1
    context_padding_BX = None if subject.context_padding_BX is None else subject.context_padding_BX[:1]
    return replace(subject, batch=batch, lengths_B=length_B, source_lengths_B=source_lengths_B,
                   context_padding_BX=context_padding_BX,
                   targets=tuple(following.masked_fill(ends, IGNORED) for _ in subject.targets))


def _goes_on(values_T: Tensor, length: int) -> Tensor:
    """What counts its places counts on; all else comes again and again, as tokens do."""
    counted_L = torch.arange(length, device=values_T.device, dtype=values_T.dtype)
    return counted_L[None] if torch.equal(values_T, counted_L[:len(values_T)]) else _again(values_T, length)


def _again(tokens_T: Tensor, length: int) -> Tensor:
    return tokens_T.repeat(-(-length // max(1, len(tokens_T))))[None, :length]

"""The loss law once more, in float64, from logits and from targets that the data give: what a loss has to be."""

from __future__ import annotations

from collections import Counter, defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from dstrain.doctor.model_proofs.probes import IGNORED, ids_of
from dstrain.doctor.subject import Subject


def nll_BT(subject: Subject, features: Tensor, targets_BT: Tensor) -> Tensor:
    """-log p of each target, smoothed as the loss has to be; 0 where nothing is scored. In the features' dtype."""
    logits = subject.logits_of(subject.module, features)
    return F.cross_entropy(logits.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED, reduction="none",
                           label_smoothing=subject.smoothing).reshape(targets_BT.shape)


def count(targets_BT: Tensor) -> int:
    return int((targets_BT != IGNORED).sum())


def expected_loss(subject: Subject, features: tuple[Tensor, ...]) -> Tensor:
    """Over all heads: weight times the sum of nll over the count of scored targets."""
    return sum(weight * nll_BT(subject, one, target).sum() / max(1, count(target))
               for weight, one, target in zip(subject.weights, features, subject.targets, strict=True))


def doubles(features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same numbers in float64, as the beginning of a graph of their own."""
    return tuple(one.detach().double().requires_grad_() for one in features)


def floor(subject: Subject) -> float:
    """The least loss on this batch: where rows agree in all that was seen, but not in what follows, nobody can know;
    and smoothed targets keep their entropy."""
    total = 0.0
    for head, (weight, targets_BT) in enumerate(zip(subject.weights, subject.targets, strict=True)):
        followers: dict[tuple, Counter] = defaultdict(Counter)
        for row, t in (targets_BT != IGNORED).nonzero().tolist():
            followers[_seen_before(subject, row, t, subject.ahead(head))][int(targets_BT[row, t])] += 1
        scored = sum(counter.total() for counter in followers.values())
        total += weight * sum(counter.total() * _entropy(subject, counter) for counter in followers.values()) \
            / max(1, scored)
    return total


def _seen_before(subject: Subject, row: int, t: int, ahead: int) -> tuple:
    """All tokens that a prediction at this place may rest on, which is told some tokens ahead."""
    first, roles = 0, subject.roles
    if roles.segments is not None:
        segments_T = subject.batch[roles.segments][row]
        first = int((segments_T == segments_T[t]).nonzero()[0])
    source = ()
    if roles.source is not None:
        source = tuple(subject.batch[roles.source][row, :int(subject.source_lengths_B[row])].tolist())
    return source, tuple(ids_of(subject)[row, first:t + 1 + ahead].tolist())


def _entropy(subject: Subject, counter: Counter) -> float:
    """Of what follows, smoothed: (1 - e) of it as counted, e spread over the vocabulary."""
    spread = subject.smoothing / subject.vocab_size
    shares = torch.tensor([(1 - subject.smoothing) * number / counter.total() + spread for number in counter.values()],
                          dtype=torch.float64)
    others = subject.vocab_size - len(counter)
    entropy = float(-(shares * shares.log()).sum())
    return entropy - (others * spread * float(torch.tensor(spread).double().log()) if spread else 0.0)

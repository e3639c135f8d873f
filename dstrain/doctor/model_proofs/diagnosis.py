"""Where a loss's gradient is not the law's: position by position, which hypothesis it points along."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from dstrain.doctor.model_proofs.law import count, nll_BT
from dstrain.doctor.model_proofs.probes import IGNORED, beyond, ids_of
from dstrain.doctor.subject import Subject

ALONG = 0.999
"""cosine from which a gradient points along a hypothesis; what is rounded to 16 bits is beyond 0.9995"""
SAME = 0.02
"""relative difference up to which two weights are called the same"""


@dataclass(frozen=True)
class Read:
    """What one head's gradient says."""

    lost_BT: Tensor
    """to be scored and not scored"""
    extra_BT: Tensor
    """scored and not to be scored"""
    right_BT: Tensor
    """scored with its own target"""
    shares_BT: Tensor
    """where right: by how much more than the law says"""
    ahead: Counter
    """distance of the token that was scored in place of the target -> positions; None: not any token near"""


def diagnosed(subject: Subject, features: tuple[Tensor, ...], found: tuple[Tensor, ...],
              expected: tuple[Tensor, ...]) -> tuple[list[str], str]:
    """(likely causes, what to do first)."""
    reads = [read(subject, head, *of_head) for head, of_head in enumerate(zip(features, found, expected, strict=True))]
    causes, remedies = [], []
    for head, one in enumerate(reads):
        here = f"head {head + 1}: " if len(reads) > 1 else ""
        for cause, remedy in (*_what(subject, head, one), *_weights(subject, head, one)):
            causes.append(here + cause)
            remedies.append(remedy)
    if not causes:
        return ["the gradient is off by a little at all positions: another smoothing, or a rounded loss"], \
            "compare smoothing and precision of the loss with what was asked"
    return causes, remedies[0]


def read(subject: Subject, head: int, features: Tensor, found: Tensor, expected: Tensor) -> Read:
    targets_BT = subject.targets[head]
    scored_BT = targets_BT != IGNORED
    strength = found.norm(dim=-1)
    present_BT = strength > 1e-6 * strength.max().clamp(min=1e-300)
    right_BT = scored_BT & present_BT & (_cosine(found, expected) > ALONG)
    shares_BT = (found * expected).sum(-1) / (expected * expected).sum(-1).clamp(min=1e-300)
    open_BT, ahead = scored_BT & present_BT & ~right_BT, Counter()
    for distance in _distances(subject):
        candidate_BT = moved(subject, distance)
        one = features.detach().double().requires_grad_()
        along = torch.autograd.grad(nll_BT(subject, one, candidate_BT).sum(), one)[0]
        fits_BT = open_BT & (candidate_BT != IGNORED) & (_cosine(found, along) > ALONG)
        ahead[distance] += int(fits_BT.sum())
        open_BT = open_BT & ~fits_BT
    ahead[None] = int(open_BT.sum())
    return Read(scored_BT & ~present_BT, ~scored_BT & present_BT, right_BT, shares_BT, ahead)


def moved(subject: Subject, distance: int) -> Tensor:
    """[B, T] the token that stands `distance` further on; -100 beyond the tensor."""
    ids = ids_of(subject)
    found = ids.roll(-distance, dims=1).clone()
    if distance > 0:
        found[:, -distance:] = IGNORED
    elif distance < 0:
        found[:, :-distance] = IGNORED
    return found.where((found >= 0) & (found < subject.vocab_size), IGNORED)


def distance_of(subject: Subject, head: int) -> int | None:
    """How far ahead the head's targets stand, by the data."""
    targets_BT = subject.targets[head]
    scored = count(targets_BT)
    for distance in _distances(subject):
        if 2 * int(((moved(subject, distance) == targets_BT) & (targets_BT != IGNORED)).sum()) > scored:
            return distance
    return None


def _distances(subject: Subject) -> list[int]:
    most = len(subject.targets) + 2
    return [distance for distance in (1, 0, -1, *range(2, most + 1)) if abs(distance) < ids_of(subject).shape[1]]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1)).clamp(min=1e-300)


def _what(subject: Subject, head: int, one: Read) -> list[tuple[str, str]]:
    """Wrong targets, lost ones and such as should not be there."""
    scored, said = count(subject.targets[head]), []
    own = distance_of(subject, head)
    for distance, positions in one.ahead.most_common():
        if not positions:
            continue
        if distance is None:
            said.append((f"{positions:,} of {scored:,} positions are scored with a token that stands nowhere near",
                         "look at how the labels are made"))
        elif distance == 0:
            said.append((f"{positions:,} of {scored:,} positions are scored with the token that stands there "
                         "(not shifted)", "shift the labels once: the target at t is the token at t + 1"))
        else:
            instead = "" if own is None else f" instead of {own}"
            why = " (shifted twice)" if own is not None and distance == 2 * own else ""
            said.append((f"{positions:,} of {scored:,} positions learn the token {distance} ahead{instead}{why}",
                         "shift in one place only, and each head's labels and mask by that head's own distance"))
    said += _lost(subject, head, one)
    taken = next((distance for distance, positions in one.ahead.most_common(1) if 2 * positions > scored), own)
    padding_BT = beyond(subject.lengths_B - (taken or 0), ids_of(subject).shape[1])  # there the target is
    in_padding, elsewhere = int((one.extra_BT & padding_BT).sum()), int((one.extra_BT & ~padding_BT).sum())
    if in_padding:
        said.append((f"{in_padding:,} targets in padding are scored", "write -100 into the labels from the row's "
                     "length on"))
    if elsewhere:
        said.append((f"{elsewhere:,} positions are scored that have no target", "write -100 into their labels: a "
                     "deeper head loses as many targets at every document's end as it looks ahead"))
    return said


def _lost(subject: Subject, head: int, one: Read) -> list[tuple[str, str]]:
    lost = int(one.lost_BT.sum())
    if not lost:
        return []
    scored_BT = subject.targets[head] != IGNORED
    slots_T = torch.arange(scored_BT.shape[1], device=scored_BT.device)
    ends_BT = scored_BT & (slots_T == torch.where(scored_BT, slots_T, -1).amax(1, keepdim=True))
    starts_BT = scored_BT & (slots_T == torch.where(scored_BT, slots_T, len(slots_T)).amin(1, keepdim=True))
    for name, places_BT in (("ends", ends_BT), ("first targets", starts_BT)):
        if bool(one.lost_BT[places_BT].all()) and lost < 2 * int(places_BT.sum()):
            more = f" ({lost:,} positions in all)" if lost > int(places_BT.sum()) else ""
            return [(f"all {int(places_BT.sum()):,} {name} are not scored{more}",
                     "ignore -100 only, never an id such as the pad's, which may be the end's as well")]
    lost_targets = subject.targets[head][one.lost_BT].unique()
    one_id = f": all of them the id {int(lost_targets)}" if lost_targets.numel() == 1 else ""
    return [(f"{lost:,} of {count(subject.targets[head]):,} targets are not scored{one_id}",
             "ignore -100 only, never an id such as the pad's")]


def _weights(subject: Subject, head: int, one: Read) -> list[tuple[str, str]]:
    """Targets that are right, but count for more or less than the law says."""
    shares = one.shares_BT[one.right_BT]
    if shares.numel() == 0 or bool(((shares - 1).abs() < SAME).all()):
        return _slightly(shares, subject, head)
    least, most = float(shares.min()), float(shares.max())
    if most - least < SAME * abs(most):
        return [] if _follows(subject, head, one, float(shares.mean())) else [
            _all_alike(subject, head, float(shares.mean()))]
    by_row = [one.shares_BT[row][one.right_BT[row]] for row in range(len(one.right_BT))]
    alike = all(row.numel() == 0 or float(row.max() - row.min()) < SAME * abs(float(row.max())) for row in by_row)
    kind = "by row" if alike else "by position"
    why = " (a mean of means)" if alike else ""
    return [(f"weights differ {kind}: {least:.2f} to {most:.2f} times the law's{why}",
             "divide one sum of nll by one count, over all rows, micro-batches and ranks")]


def _follows(subject: Subject, head: int, one: Read, share: float) -> bool:
    """Whether a wrong weight only says that others, or fewer, are counted: a mean over what is scored."""
    own = count(subject.targets[head])
    scored = own - int(one.lost_BT.sum()) + int(one.extra_BT.sum())
    return scored != own and abs(share * scored / own - 1) < 2e-3


def _slightly(shares: Tensor, subject: Subject, head: int) -> list[tuple[str, str]]:
    if shares.numel() and bool(((shares - 1).abs() > 2e-4).all()) and float(shares.max() - shares.min()) < 2e-4:
        return [_all_alike(subject, head, float(shares.mean()))]
    return []


def _all_alike(subject: Subject, head: int, share: float) -> tuple[str, str]:
    own = count(subject.targets[head])
    for other, targets_BT in enumerate(subject.targets):
        if other != head and count(targets_BT) != own and abs(share * count(targets_BT) / own - 1) < 2e-4:
            return (f"every target counts {share:.3f} times: divided by the count of head {other + 1}, "
                    f"{count(targets_BT):,}, and not by its own, {own:,}", "give each head its own count")
    whole = f": {share:.0f} times too large, a sum over accumulation or over ranks" if round(share) > 1 and \
        abs(share - round(share)) < SAME else ""
    return (f"every target counts {share:.3f} times what the law says{whole}",
            "divide the sum of nll by the count of the scored targets of the whole step, once")

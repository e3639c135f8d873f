"""No later token reaches a scored logit: by gradient, and by changing later tokens (a choice has no gradient)."""

from __future__ import annotations

import torch

from dstrain.doctor.finding import Finding
from dstrain.doctor.model_proofs.probes import (NOTHING, Compared, allowed, allowed_in_words, beyond, changed, compare,
                                                embeddings_of, ids_of, look, noise, other_tokens, pass_through,
                                                reached, scored_BT, some_places, tokens_of, untouched)
from dstrain.doctor.subject import Subject

CLAIM = "no later token reaches a scored logit of any head, by gradient and by changed tokens; earlier ones do"


def prove(subject: Subject) -> Finding:
    places = some_places(subject)
    with untouched(subject.module):
        leaks, pairs, earlier, seen = by_gradient(subject, places)
        changes, heads, dtype, noticed = by_change(subject, places)
    probed = (f"{leaks:,} of {pairs:,} gradients with respect to later inputs are not 0" if seen else
              "no embedding of these ids was seen, so no gradients were read")
    figure = f"{probed}; {changes.different:,} of {changes.compared:,} logits notice later tokens that change"
    tolerance = f"gradients exactly 0; logits {allowed_in_words(subject, dtype)}"
    if not (earlier if seen else noticed):
        return Finding(False, f"{figure}; earlier ones matter nowhere", tolerance,
                       "no token of the row reaches any logit: the features do not depend on these ids",
                       "look at what the forward pass does with the ids, and whether these are the right ones")
    if not leaks and not changes.different and changes.compared:
        return Finding(True, f"{figure}; those with respect to earlier ones are" if seen else figure, tolerance)
    return Finding(False, figure, tolerance, _cause(leaks, changes, heads, len(subject.targets)),
                   "give every attention that runs over these positions a causal mask, a cross-attention that is fed "
                   "with the same positions included; let experts be chosen for each token, not tokens for experts")


def _cause(leaks: int, changes: Compared, heads: list[int], of: int) -> str:
    which = f" (heads {', '.join(map(str, heads))} of {of})" if 0 < len(heads) < of else ""
    if not leaks:
        return ("the gradient sees no later input, but logits change with it: something is chosen among all tokens of "
                f"a row, such as the top tokens of an expert or of a depth{which}")
    return (f"an attention without a causal mask, a memory that holds the same positions without one, or a sum over "
            f"the whole row{which}; with training losses far too good")


def by_gradient(subject: Subject, places: list[int]) -> tuple[int, int, int, bool]:
    """(pairs of a place and a later input with a gradient, pairs looked at, earlier inputs with one, any seen)."""
    leaks = pairs = earlier = 0
    with embeddings_of(tokens_of(subject)) as caught:
        seen = pass_through(subject)
    rows, size = ids_of(subject).shape
    for head, features in enumerate(seen.features):
        for t in places:
            scored_B = scored_BT(subject, head)[:, t]
            if not bool(scored_B.any()):
                continue
            found = reached((features[scored_B, t] * noise(features)).sum(), caught, subject.roles.ids, rows)
            if found is None:
                return 0, 0, 0, False
            later = found[scored_B, t + 1:]
            leaks, pairs = leaks + int((later != 0).sum()), pairs + later.numel()
            earlier += int((found[scored_B, :t + 1] != 0).sum())
    return leaks, pairs, earlier, pairs > 0


def by_change(subject: Subject, places: list[int]) -> tuple[Compared, list[int], torch.dtype, bool]:
    """(what later tokens changed, numbers of the heads that did, dtype, whether other tokens change any logit)."""
    before = look(subject).features
    ids, name = ids_of(subject), subject.roles.ids
    real_BT = ~beyond(subject.lengths_B, ids.shape[1])
    slots_T = torch.arange(ids.shape[1], device=ids.device)
    others = [other_tokens(ids, 1), other_tokens(ids, 2), ids[:, :1].expand_as(ids)]
    total, heads = NOTHING, set()
    for t in places:
        for other in others:
            after = look(subject, changed(subject.batch, name, real_BT & (slots_T > t), other)).features
            for head, (one, two) in enumerate(zip(before, after, strict=True)):
                found = compare(one, two, scored_BT(subject, head) & (slots_T <= t), allowed(subject, one.dtype))
                total += found
                heads |= {head + 1} if found.different else set()
    after = look(subject, changed(subject.batch, name, real_BT, others[0])).features
    noticed = any(not torch.equal(one, two) for one, two in zip(before, after, strict=True))
    return total, sorted(heads), before[0].dtype, noticed

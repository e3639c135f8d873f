"""Documents that share a row do not see each other."""

from __future__ import annotations

import torch

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.probes import (NOTHING, Compared, allowed, allowed_in_words, changed, compare,
                                                embeddings_of, ids_of, look, noise, other_tokens, pass_through,
                                                reached, scored_BT, tokens_of, untouched)
from dstrain.doctor.subject import Subject

CLAIM = "no document reaches a scored logit of another document in its row, by gradient and by changed tokens"


def prove(subject: Subject) -> Finding:
    if subject.roles.segments is None:
        raise NotProven("the batch does not say where documents are (no segments)")
    segments_BT = subject.batch[subject.roles.segments]
    numbers = [int(number) for number in segments_BT.unique() if number >= 0]
    several_B = torch.stack([(segments_BT == number).any(1) for number in numbers]).sum(0) > 1
    if not bool(several_B.any()):
        raise NotProven("no row of the batch holds two documents")
    with untouched(subject.module):
        leaks, pairs, own, seen = by_gradient(subject, segments_BT, numbers[:4])
        changes, dtype = by_change(subject, segments_BT, numbers[:4])
    probed = (f"{leaks:,} of {pairs:,} gradients with respect to other documents are not 0" if seen else
              "no embedding of these ids was seen, so no gradients were read")
    figure = f"{probed}; {changes.different:,} of {changes.compared:,} logits notice another document that changes"
    tolerance = f"gradients exactly 0; logits {allowed_in_words(subject, dtype)}"
    if not leaks and not changes.different and changes.compared and (own or not seen):
        return Finding(True, figure, tolerance)
    return Finding(False, figure, tolerance,
                   "the mask does not know the documents' borders, or something sums over the whole row",
                   "make the mask from the segments: an earlier position of the same document, nothing else")


def by_gradient(subject: Subject, segments_BT: torch.Tensor, numbers: list[int]) -> tuple[int, int, int, bool]:
    """(inputs of other documents with a gradient, looked at, of the same with one, any seen): per document."""
    leaks = pairs = own = 0
    with embeddings_of(tokens_of(subject)) as caught:
        seen = pass_through(subject)
    for head, features in enumerate(seen.features):
        for number in numbers:
            watched_BT = scored_BT(subject, head) & (segments_BT == number)
            if not bool(watched_BT.any()):
                continue
            found = reached((features[watched_BT] * noise(features)).sum(), caught, subject.roles.ids,
                            ids_of(subject).shape[0])
            if found is None:
                return 0, 0, 0, False
            other_BT = (segments_BT >= 0) & (segments_BT != number)
            leaks, pairs = leaks + int((found[other_BT] != 0).sum()), pairs + int(other_BT.sum())
            own += int((found[segments_BT == number] != 0).sum())
    return leaks, pairs, own, pairs > 0


def by_change(subject: Subject, segments_BT: torch.Tensor, numbers: list[int]) -> tuple[Compared, torch.dtype]:
    """All documents but one get other tokens; that one must not notice."""
    before, total = look(subject).features, NOTHING
    for number in numbers:
        elsewhere_BT = (segments_BT >= 0) & (segments_BT != number)
        for seed in (1, 2):
            other = changed(subject.batch, subject.roles.ids, elsewhere_BT, other_tokens(ids_of(subject), seed))
            for head, (one, two) in enumerate(zip(before, look(subject, other).features, strict=True)):
                watched_BT = scored_BT(subject, head) & (segments_BT == number)
                total += compare(one, two, watched_BT, allowed(subject, one.dtype))
    return total, before[0].dtype

"""Documents that share a row do not see each other."""

from __future__ import annotations

import torch

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.probes import (NOTHING, Compared, allowed, allowed_in_words, changed, compare,
                                                embeddings_of, ids_of, look, noise, nowhere_zero, other_tokens,
                                                pass_through, reached, scored_BT, tokens_of)
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
    leaks, pairs, own, seen, changes, modes = 0, 0, 0, False, NOTHING, []
    with nowhere_zero(subject.module):
        for training in (True, False):
            found = by_gradient(subject, segments_BT, numbers[:4], training)
            noticed, dtype = by_change(subject, segments_BT, numbers[:4], training)
            leaks, pairs, own, seen = leaks + found[0], pairs + found[1], own + found[2], seen or found[3]
            changes += noticed
            modes += [training] if found[0] or noticed.different else []
    probed = (f"{leaks:,} of {pairs:,} gradients with respect to other documents are not 0" if seen else
              "no embedding of these ids was seen, so no gradients were read")
    figure = (f"{probed}; {changes.different:,} of {changes.compared:,} logits notice another document that changes, "
              "in training and in eval mode")
    tolerance = f"gradients exactly 0; logits {allowed_in_words(subject, dtype)}"
    if not leaks and not changes.different and changes.compared and (own or not seen):
        return Finding(True, figure, tolerance)
    only = "" if len(modes) != 1 else f"; in {'training' if modes[0] else 'eval'} mode only"
    return Finding(False, figure, tolerance,
                   f"the mask does not know the documents' borders, or something sums over the whole row{only}",
                   "make the mask from the segments: an earlier position of the same document, nothing else")


def by_gradient(subject: Subject, segments_BT: torch.Tensor, numbers: list[int],
                training: bool) -> tuple[int, int, int, bool]:
    """(inputs of other documents with a gradient, looked at, of the same with one, any seen): per document."""
    leaks = pairs = own = 0
    with embeddings_of(tokens_of(subject)) as caught:
        seen = pass_through(subject, training=training)
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


def by_change(subject: Subject, segments_BT: torch.Tensor, numbers: list[int],
              training: bool) -> tuple[Compared, torch.dtype]:
    """All documents but one get other tokens; that one must not notice."""
    before, total = look(subject, training=training).features, NOTHING
    for number in numbers:
        elsewhere_BT = (segments_BT >= 0) & (segments_BT != number)
        for seed in (1, 2):
            other = changed(subject.batch, subject.roles.ids, elsewhere_BT, other_tokens(ids_of(subject), seed))
            for head, (one, two) in enumerate(zip(before, look(subject, other, training).features, strict=True)):
                watched_BT = scored_BT(subject, head) & (segments_BT == number)
                total += compare(one, two, watched_BT, allowed(subject, one.dtype))
    return total, before[0].dtype

"""No later token reaches a scored logit: by gradient, and by changing later tokens (a choice has no gradient)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.probes import (NOTHING, Compared, allowed, allowed_in_words, beyond, changed, compare,
                                                embeddings_of, ids_of, labels_of, look, noise, nowhere_zero,
                                                other_tokens, pass_through, reached, scored_BT, some_places, tokens_of)
from dstrain.doctor.subject import Subject, TensorDict

CLAIM = "no later token and no label to come reaches a scored logit of any head, in either mode; earlier tokens do"
FIRST = 6
"""places, of those that come first, which are looked at most closely and however long it takes"""
SECONDS = 15.0
"""for each of the four ways of looking; of a large model not all places are looked at then, and the figure says so"""
REMEDY = ("give every attention that runs over these positions a causal mask, a cross-attention that is fed with the "
          "same positions included; let experts be chosen for each token, not tokens for experts")


class Looked(NamedTuple):
    """What was seen in one mode of the module, or in several."""

    leaks: int = 0
    """pairs of a place and a later input with a gradient"""
    pairs: int = 0
    """looked at"""
    earlier: int = 0
    """inputs at strictly earlier places that reach a logit"""
    own: int = 0
    """inputs at a logit's own place that reach it"""
    changes: Compared = NOTHING
    """by later tokens"""
    told: Compared = NOTHING
    """by labels that are still to be predicted"""
    places: int = 0

    def __add__(self, other: "Looked") -> "Looked":
        return Looked(*(one + two for one, two in zip(self, other, strict=True)))

    @property
    def wrong(self) -> bool:
        return bool(self.leaks or self.changes.different or self.told.different)


def prove(subject: Subject, longer: Subject | None = None) -> Finding:
    """`longer`: the same on one row of full length, of which some places are looked at."""
    heads: set[int] = set()
    if not some_places(subject):
        raise NotProven("no place of the batch has both a target and a token after it")
    with nowhere_zero(subject.module):
        by_mode = [looked(subject, some_places(subject), training, heads) for training in (True, False)]
        dtype = look(subject).features[0].dtype
    if longer is not None:
        with nowhere_zero(longer.module):
            by_mode.append(looked(longer, some_places(longer)[:FIRST], True, heads))
    total = sum(by_mode, Looked())
    figure = _figure(total, by_mode)
    figure += "" if longer is None else f", and at {by_mode[-1].places} of a row of {int(longer.lengths_B.max()):,}"
    tolerance = f"gradients exactly 0; logits {allowed_in_words(subject, dtype)}"
    if not total.earlier and not total.own:
        return Finding(False, f"{figure}; earlier ones matter nowhere", tolerance,
                       "no token of the row reaches any logit: the features do not depend on these ids",
                       "look at what the forward pass does with the ids, and whether these are the right ones")
    if total.wrong:
        return Finding(False, figure, tolerance, _cause(total, by_mode, sorted(heads), len(subject.targets)), REMEDY)
    if not total.earlier and max(some_places(subject), default=0) > 0:
        raise NotProven(f"{figure}; but no logit depends on any earlier token, only on the one at its own place. Of a "
                        "model that is to see one token there is no future to prove; otherwise nothing arrives from "
                        "the tokens before")
    return Finding(True, f"{figure}; those with respect to earlier ones are" if total.pairs else figure, tolerance)


def _figure(total: Looked, by_mode: list[Looked]) -> str:
    probed = (f"{total.leaks:,} of {total.pairs:,} gradients with respect to later inputs are not 0" if total.pairs else
              "no embedding of these ids was seen, so no gradients were read")
    told = f", {total.told.different:,} of {total.told.compared:,} labels to come" if total.told.compared else ""
    return (f"{probed}; {total.changes.different:,} of {total.changes.compared:,} logits notice later tokens that "
            f"change{told}, at {by_mode[0].places} places, in training and in eval mode")


def _cause(total: Looked, by_mode: list[Looked], heads: list[int], of: int) -> str:
    which = f" (heads {', '.join(map(str, heads))} of {of})" if 0 < len(heads) < of else ""
    in_training, in_eval, *longer = (one.wrong for one in by_mode)
    which += ("; in training mode only" if in_training and not in_eval else
              "; in eval mode only" if in_eval and not in_training else "")
    which += "; only in a row of full length" if any(longer) and not in_training and not in_eval else ""
    if total.told.different and not total.leaks and not total.changes.different:
        return ("logits are told their targets: what is made of the labels goes into the model, not into the loss "
                f"alone{which}")
    if not total.leaks:
        return ("the gradient sees no later input, but logits change with it: something is chosen among all tokens of "
                f"a row, such as the top tokens of an expert or of a depth, or read beside the embedding{which}")
    return (f"an attention without a causal mask, a memory that holds the same positions without one, or a sum over "
            f"the whole row{which}; with training losses far too good")


def looked(subject: Subject, places: list[int], training: bool, heads: set[int]) -> Looked:
    """In one mode; adds the numbers of heads that see what they may not."""
    found = by_gradient(subject, places, training)
    changes, told = by_change(subject, places, training, heads), by_labels(subject, places, training, heads)
    if not found.pairs:
        earlier, own = noticed(subject, places, training)
        found = found._replace(earlier=earlier, own=own)
    return found._replace(changes=changes, told=told)


def in_time(places: list[int]) -> Iterator[tuple[int, int]]:
    """(number, place): the first ones in any case, the others while there is time."""
    until = time.perf_counter() + SECONDS
    for number, t in enumerate(places):
        if number >= FIRST and time.perf_counter() > until:
            return
        yield number, t


def by_gradient(subject: Subject, places: list[int], training: bool) -> Looked:
    found, tried = Looked(), set()
    with embeddings_of(tokens_of(subject)) as caught:
        seen = pass_through(subject, training=training)
    rows = ids_of(subject).shape[0]
    for _, t in in_time(places):
        for head, features in enumerate(seen.features):
            scored_B = scored_BT(subject, head)[:, t]
            if not bool(scored_B.any()):
                continue
            sizes = reached((features[scored_B, t] * noise(features)).sum(), caught, subject.roles.ids, rows)
            if sizes is None:
                return Looked(places=len(places))
            later, tried = sizes[scored_B, t + 1 + subject.ahead(head):], tried | {t}
            found += Looked(int((later != 0).sum()), later.numel(), int((sizes[scored_B, :t] != 0).sum()),
                            int((sizes[scored_B, t] != 0).sum()))
    return found._replace(places=len(tried))


def by_change(subject: Subject, places: list[int], training: bool, heads: set[int]) -> Compared:
    """Later tokens become others, in three ways at the first places and in turns at all further ones."""
    before = look(subject, training=training).features
    ids, name = ids_of(subject), subject.roles.ids
    real_BT = ~beyond(subject.lengths_B, ids.shape[1])
    slots_T = torch.arange(ids.shape[1], device=ids.device)
    others = [other_tokens(ids, 1), other_tokens(ids, 2), ids[:, :1].expand_as(ids)]
    total = NOTHING
    for number, t in in_time(places):
        for other in others if number < FIRST else others[number % 2:][:1]:
            batch = changed(subject.batch, name, real_BT & (slots_T > t), other)
            total += _compared(subject, before, batch, t, training, heads)
    return total


def by_labels(subject: Subject, places: list[int], training: bool, heads: set[int]) -> Compared:
    """Labels that are not known yet become others: at t and later, or where they are shifted by the model later than t.
    A decoder's input may be made of those before."""
    names, total = labels_of(subject), NOTHING
    if not names:
        return NOTHING
    before = look(subject, training=training).features
    slots_T = torch.arange(ids_of(subject).shape[1], device=ids_of(subject).device)
    for number, t in in_time(places):
        batch = subject.batch
        for name, shift in names.items():
            labels = batch[name]
            batch = changed(batch, name, (labels >= 0) & (slots_T >= t + shift), other_tokens(labels, number))
        total += _compared(subject, before, batch, t, training, heads)
    return total


def _compared(subject: Subject, before: tuple[torch.Tensor, ...], batch: TensorDict, t: int, training: bool,
              heads: set[int]) -> Compared:
    """Scored features, before and after: up to t, and of a head that is told some tokens ahead up to as many before."""
    slots_T = torch.arange(ids_of(subject).shape[1], device=ids_of(subject).device)
    total = NOTHING
    for head, (one, two) in enumerate(zip(before, look(subject, batch, training).features, strict=True)):
        upto_BT = scored_BT(subject, head) & (slots_T <= t - subject.ahead(head))
        found = compare(one, two, upto_BT, allowed(subject, one.dtype))
        total += found
        heads |= {head + 1} if found.different else set()
    return total


def noticed(subject: Subject, places: list[int], training: bool) -> tuple[int, int]:
    """(places at which a logit changes with strictly earlier tokens, with the one at its own place)."""
    before, ids = look(subject, training=training).features, ids_of(subject)
    slots_T, other = torch.arange(ids.shape[1], device=ids.device), other_tokens(ids, 1)
    found = []
    for where in (torch.lt, torch.eq):
        found.append(0)
        for t in places[:FIRST]:
            batch = changed(subject.batch, subject.roles.ids, where(slots_T, t).expand_as(ids), other)
            after = look(subject, batch, training).features
            found[-1] += any(not torch.equal(one[:, t], two[:, t]) for one, two in zip(before, after, strict=True))
    return found[0], found[1]

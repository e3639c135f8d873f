"""A row gives what it gives whatever rows it is batched with, and wherever it stands among them."""

from __future__ import annotations

import torch

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.probes import (NOTHING, ROUNDING, Compared, allowed, allowed_in_words, compare,
                                                ids_of, look, nowhere_zero, other_tokens, picked_rows, scored_BT,
                                                tokens_of)
from dstrain.doctor.subject import Subject

CLAIM = "no row reaches a scored logit of another row: other tokens, other lengths, another order"
WATCHED = 4
"""rows for each of which all others are exchanged"""


def prove(subject: Subject) -> Finding:
    rows = ids_of(subject).shape[0]
    if rows < 2:
        raise NotProven("the batch has one row only")
    with nowhere_zero(subject.module):
        before = look(subject).features
        watched = sorted({round(i * (rows - 1) / (WATCHED - 1)) for i in range(WATCHED)})
        found = [exchanged(subject, before, row) for row in watched]
        first = only_first_exchanged(subject, before)
        order = in_another_order(subject)
    dtype = before[0].dtype
    total = sum(found, first)
    figure = (f"{total.different:,} of {total.compared:,} logits notice other rows; "
              f"{order.largest:.1e} of the largest in another order")
    tolerance = f"{allowed_in_words(subject, dtype)}; {ROUNDING[dtype]:.0e} in another order: another place in memory"
    if total.compared and not total.different and not order.different:
        return Finding(True, figure, tolerance)
    if first.different and not found[0].different:
        cause = "all rows follow the first one, such as its shape or length used for all of them"
    elif not total.different:
        cause = "what a row gives depends on its place in the batch"
    else:
        cause = ("something is summed, normalized or chosen over rows (BatchNorm, a capacity for all), or a reshape "
                 "mixes them")
    return Finding(False, figure, tolerance, cause,
                   "let nothing be computed over rows: lengths and shapes of each row for itself, LayerNorm or RMSNorm")


def exchanged(subject: Subject, before: tuple[torch.Tensor, ...], row: int) -> Compared:
    """All rows but one become other rows of the batch, whole, and then get other tokens."""
    rows = ids_of(subject).shape[0]
    number_B = torch.arange(rows, device=ids_of(subject).device)
    others = [r for r in range(rows) if r != row]
    moved_B = number_B.clone()
    moved_B[others] = number_B[others[1:] + others[:1] if len(others) > 1 else [row]]
    tokens = tokens_of(subject)
    other_row_B = number_B != row
    new_tokens = {name: torch.where(other_row_B[:, None], other_tokens(ids, 3), ids) for name, ids in tokens.items()}
    total = NOTHING
    for batch in (picked_rows(subject, subject.batch, moved_B), {**subject.batch, **new_tokens}):
        for head, (one, two) in enumerate(zip(before, look(subject, batch).features, strict=True)):
            here_BT = scored_BT(subject, head) & ~other_row_B[:, None]
            total += compare(one, two, here_BT, allowed(subject, one.dtype))
    return total


def only_first_exchanged(subject: Subject, before: tuple[torch.Tensor, ...]) -> Compared:
    """The first row becomes the last one: no other row may notice."""
    number_B = torch.arange(ids_of(subject).shape[0], device=ids_of(subject).device)
    moved_B = torch.where(number_B == 0, number_B[-1], number_B)
    after = look(subject, picked_rows(subject, subject.batch, moved_B)).features
    total = NOTHING
    for head, (one, two) in enumerate(zip(before, after, strict=True)):
        total += compare(one, two, scored_BT(subject, head) & (number_B != 0)[:, None], allowed(subject, one.dtype))
    return total


def in_another_order(subject: Subject) -> Compared:
    """The last row first. In eval mode: a generator's dropout belongs to the place."""
    turned_B = torch.arange(ids_of(subject).shape[0], device=ids_of(subject).device).flip(0)
    before = look(subject, training=False).features
    after = look(subject, picked_rows(subject, subject.batch, turned_B), training=False).features
    total = NOTHING
    for head, (one, two) in enumerate(zip(before, after, strict=True)):
        total += compare(one, two[turned_B], scored_BT(subject, head), ROUNDING[one.dtype])
    return total

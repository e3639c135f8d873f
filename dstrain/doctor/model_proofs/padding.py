"""What stands in padding, and how much of it there is, changes nothing; and a real token may have the pad's id."""

from __future__ import annotations

import torch
from torch import Tensor

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.probes import (NOTHING, ROUNDING, Compared, allowed, allowed_in_words, changed,
                                                compare, cut, embeddings_of, ids_of, look, noise, nowhere_zero,
                                                other_tokens, padding_of, part_of, pass_through, reached, scored_BT,
                                                tokens_of)
from dstrain.doctor.subject import Subject, TensorDict

CLAIM = "padding reaches no scored logit and no loss, whatever stands in it and however much there is"
ALONE = 4
"""rows that are tried as a batch of their own"""
MORE = 3
"""positions of padding that are added"""


def prove(subject: Subject) -> Finding:
    padding = padding_of(subject)
    if not padding:
        raise NotProven("the batch has no padding")
    with nowhere_zero(subject.module):
        leaks, pairs = by_gradient(subject, padding)
        contents, dtype, whose = by_contents(subject, padding)
        unseen, real = real_tokens_with_its_id(subject, padding)
        alone = by_rows_alone(subject)
        more = with_more_of_it(subject)
    amount = alone + (more or NOTHING)
    probed = (f"{leaks:,} of {pairs:,} gradients with respect to padding are not 0" if pairs else
              "no embedding of these ids was seen, so no gradients were read")
    figure = (f"{probed}; {contents.different:,} of {contents.compared:,} logits and losses notice its contents; "
              f"{unseen:,} of {real:,} real tokens with its id are not seen; {amount.largest:.1e} of the largest with "
              f"another amount of it{'' if more is not None else ' (no more of it fits)'}")
    tolerance = (f"gradients exactly 0; contents: {allowed_in_words(subject, dtype)}; real tokens: all seen; another "
                 f"amount: {ROUNDING[dtype]:.0e}, other shapes sum in another order")
    if not (leaks or contents.different or unseen or amount.different) and contents.compared and amount.compared:
        return Finding(True, figure, tolerance)
    return Finding(False, figure, tolerance, _cause(leaks, pairs, contents, unseen, whose),
                   "make every mask from the rows' lengths and hand it to each attention: the encoder's, the one "
                   "across, the decoder's own; never compare ids with the pad's id")


def _cause(leaks: int, pairs: int, contents: Compared, unseen: int, whose: list[str]) -> str:
    if unseen or contents.different and pairs and not leaks:
        return ("a mask is made by comparing ids with the pad's id: real tokens that have this id (an end of text, a "
                "start, a separator) are masked")
    if leaks or contents.different:
        return f"padding of {' and '.join(whose) or 'the batch'} is attended to or summed: a mask is missing or ignored"
    return "the amount of padding changes what is computed: a mean over the width, or positions counted from the end"


def by_gradient(subject: Subject, padding: TensorDict) -> tuple[int, int]:
    """(positions of padding with a gradient, positions looked at): of the loss and of all scored features."""
    with embeddings_of(tokens_of(subject)) as caught:
        seen = pass_through(subject)
    output = watched_sum(subject, seen.features) + seen.loss
    leaks = pairs = 0
    for name, padding_BT in padding.items():
        found = reached(output, caught, name, len(padding_BT))
        if found is not None:
            leaks, pairs = leaks + int((found[padding_BT] != 0).sum()), pairs + int(padding_BT.sum())
    return leaks, pairs


def watched_sum(subject: Subject, features: tuple[Tensor, ...]) -> Tensor:
    return sum((one[scored_BT(subject, head)] * noise(one)).sum() for head, one in enumerate(features))


def by_contents(subject: Subject, padding: TensorDict) -> tuple[Compared, torch.dtype, list[str]]:
    """Padding of one kind of tokens becomes other tokens, tokens of its own row, and one and the same."""
    before, total, whose = look(subject), NOTHING, []
    for name, padding_BT in padding.items():
        ids = subject.batch[name]
        contents = [other_tokens(ids, 1), other_tokens(ids, 2), ids[:, 1:2].expand_as(ids), ids.flip(1)]
        found = NOTHING
        for values in contents:
            after = look(subject, changed(subject.batch, name, padding_BT, values.clamp(min=0)))
            bound = allowed(subject, before.features[0].dtype)
            for head, (one, two) in enumerate(zip(before.features, after.features, strict=True)):
                found += compare(one, two, scored_BT(subject, head), bound)
            everywhere = torch.ones(1, dtype=torch.bool, device=ids.device)
            found += compare(before.loss.reshape(1, 1), after.loss.reshape(1, 1), everywhere, bound)
        whose += [name] if found.different else []
        total += found
    return total, before.features[0].dtype, whose


def real_tokens_with_its_id(subject: Subject, padding: TensorDict) -> tuple[int, int]:
    """(real tokens that no logit depends on as soon as they have the pad's id, tokens tried): the second of each row.

    Right-padded rows of a causal model show a mask by ids nowhere else: what it hides in padding is later anyway.
    """
    unseen = tried = 0
    for name, padding_BT in padding.items():
        ids = subject.batch[name]
        pad = ids[padding_BT].clamp(min=0).mode().values
        second_BT = torch.zeros_like(padding_BT)
        second_BT[:, 1] = (~padding_BT).sum(1) >= 4
        seen = [_dependence(subject, changed(subject.batch, name, second_BT, values), name, second_BT)
                for values in (torch.where(ids == pad, other_tokens(ids, 1), ids), pad.expand_as(ids))]
        if None not in seen:
            with_another_id, with_the_pads = seen
            tried += int((with_another_id > 0).sum())
            unseen += int(((with_another_id > 0) & (with_the_pads == 0)).sum())
    return unseen, tried


def _dependence(subject: Subject, batch: TensorDict, name: str, where: Tensor) -> Tensor | None:
    """How strongly later logits depend on these tokens. Of `ids` their own place does not count: it needs no mask."""
    with embeddings_of(tokens_of(subject, batch)) as caught:
        features = pass_through(subject, batch).features
    later_T = torch.arange(ids_of(subject).shape[1], device=where.device) > 1
    if name != subject.roles.ids:
        later_T[:] = True
    output = sum((one[scored_BT(subject, head) & later_T] * noise(one)).sum() for head, one in enumerate(features))
    found = reached(output, caught, name, len(where))
    return None if found is None else found[where]


def by_rows_alone(subject: Subject) -> Compared:
    """Each row as a batch of its own without any padding, against the same row beside others and padded."""
    together, total = look(subject, training=False).features, NOTHING
    rows = len(subject.lengths_B)
    for row in sorted({round(i * (rows - 1) / (ALONE - 1)) for i in range(ALONE)}):
        one_row = part_of(subject, torch.tensor([row], device=subject.lengths_B.device))
        length = int(one_row.lengths_B)
        source_length = None if one_row.source_lengths_B is None else int(one_row.source_lengths_B)
        if length == 0 or source_length == 0:
            continue
        alone = look(subject, cut(subject, one_row.batch, length, source_length), training=False).features
        for head, (one, two) in enumerate(zip(together, alone, strict=True)):
            watched_BT = scored_BT(subject, head)[row:row + 1, :length]
            total += compare(one[row:row + 1, :length], two, watched_BT, ROUNDING[one.dtype])
    return total


def with_more_of_it(subject: Subject) -> Compared | None:
    """A few more positions of padding in all tensors; None where the model takes no longer rows."""
    longer = lengthened(subject)
    if longer is None:
        return None
    size = ids_of(subject).shape[1]
    before = look(subject, training=False)
    try:
        after = look(subject, longer, training=False)
    except (IndexError, RuntimeError, ValueError, AssertionError):
        return None  # as many as it was built for
    total = NOTHING
    for head, (one, two) in enumerate(zip(before.features, after.features, strict=True)):
        if two.shape[1] < size:
            return None
        total += compare(one, two[:, :size], scored_BT(subject, head), ROUNDING[one.dtype])
    return total


def lengthened(subject: Subject) -> TensorDict | None:
    """Each tensor goes on with what it holds in padding; None where there is no telling."""
    roles, rows = subject.roles, len(subject.lengths_B)
    padding = padding_of(subject)
    longer = {}
    for name, tensor in subject.batch.items():
        if name == roles.context or name in roles.with_context:
            longer[name] = tensor
            continue
        side = roles.source if name == roles.source or name in roles.with_source else roles.ids
        if side not in padding:
            longer[name] = tensor  # this side has no padding to go on with
            continue
        width = padding[side].shape[1]
        if tensor.ndim < 2 or tensor.shape[0] != rows:
            longer[name] = tensor
            continue
        if tensor.ndim > 2 or tensor.shape[1] != width:
            return None
        most_padded = int(padding[side].sum(1).argmax())
        filling = tensor[most_padded, -1].expand(rows, MORE)
        longer[name] = torch.cat([tensor, filling], dim=1)
    return longer

"""Who may look at whom: made from segment numbers or from lengths, never from token ids.

Shapes: B rows, T positions of a row (first the one that looks, then the one looked at), S positions of a source.

Nobody else attends padding. What padding itself attends means nothing, but is never nothing: an empty softmax is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_attend_BTT(segments_BT: Tensor) -> Tensor:
    """True: may attend, which is itself and what comes earlier in the same document.

    Padding is segment -1: it attends earlier padding and itself.
    """
    length = segments_BT.shape[1]
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    return same_BTT & _not_later_TT(length, segments_BT.device)


def can_attend_source_B11S(lengths_B: Tensor, slots: int) -> Tensor:
    """True: a source's position may be attended, by every position of its encoder or decoder alike.

    A filler row, of length 0, attends its first padding.
    """
    return (torch.arange(slots, device=lengths_B.device) < lengths_B.clamp(min=1)[:, None])[:, None, None]


def can_attend_earlier_B1TT(lengths_B: Tensor, slots: int) -> Tensor:
    """True: may attend, which is itself and what comes earlier, within the row's length.

    Padding attends the whole row, and a filler row's padding its first.
    """
    return can_attend_source_B11S(lengths_B, slots) & _not_later_TT(slots, lengths_B.device)


def _not_later_TT(slots: int, device: torch.device) -> Tensor:
    return torch.ones(slots, slots, dtype=torch.bool, device=device).tril()

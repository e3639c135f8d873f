"""Who may look at whom: made from segment numbers, never from token ids.

Shapes: B rows, T positions of a row (first the one that looks, then the one looked at).
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_attend_BTT(segments_BT: Tensor) -> Tensor:
    """True: may attend, which is itself and what comes earlier in the same document.

    Padding is segment -1: it attends earlier padding and itself, so that no row of the softmax is empty (which
    would be NaN), and nothing else attends it.
    """
    length = segments_BT.shape[1]
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    return same_BTT & torch.ones(length, length, dtype=torch.bool, device=segments_BT.device).tril()

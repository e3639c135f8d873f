"""What a validation counts of several heads beside their losses: right tokens, and drafts that generation would keep.

In self-speculative decoding the further heads draft, and the first head, one pass later, keeps the drafts up to the
first that is not its own choice. Here the tokens in between are the text's own, not generated ones: what is counted
tells in advance how many drafts a text like this one keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dstrain.nn.heads import IGNORED

RIGHT, AGREED, KEPT = 0, 1, 2


def found_by_heads(best: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Float64 [3, heads], from each head's best ids [B, T] and its labels:

    RIGHT    labels that are its best id
    AGREED   labels' places where its best id is the first head's for the same token, which that head predicts later
    KEPT     of the places where every head has a label: those where it agrees, and all heads before it; of the first
             head that is the number of these places
    """
    rows = []
    kept_BT = torch.stack([labels_BT != IGNORED for labels_BT in labels]).all(dim=0)
    for distance, (best_BT, labels_BT) in enumerate(zip(best, labels, strict=True)):
        agrees_BT = (best_BT == best[0].roll(-distance, dims=1)) & (labels_BT != IGNORED)
        kept_BT = kept_BT & agrees_BT
        rows.append(torch.stack([(best_BT == labels_BT).sum(), agrees_BT.sum(), kept_BT.sum()]))
    return torch.stack(rows, dim=1).to(torch.float64)

"""The few best tokens of each row of logits, and what makes their log p: without a pass that sorts the vocabulary.

Shapes: R rows, V vocabulary, K best tokens, J and C: the vocabulary as a table of J rows and C columns.

A vocabulary of thousands is walked once for the best of each column of that table; the few columns with the best ones
hold the few best tokens. Sums of exp are made in slices of rows that stay in a CPU's cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GRID = 2.0**-20
"""steps in which float64 logits count: another batch shape changes them by 1e-13 of their size, which then changes no
choice, not even between equal tokens, and their sums are exact. Logits of other dtypes are used as they are"""

_COLUMN = 64                        # tokens of a column
_SLICE_BYTES = 2**20


class FewBest(NamedTuple):
    """All in float64."""

    log_p_RK: Tensor
    """in descending order, equal ones by id"""
    ids_RK: Tensor
    log_p_end_R: Tensor
    size_R: Tensor
    """of the largest number that these are differences of: what rounding is relative to"""


def few_best(logits_RV: Tensor, count: int, end: int) -> FewBest:
    """The `count` best tokens (all of them where there are fewer), and log p of the token `end`."""
    if logits_RV.dtype == torch.float64:
        logits_RV = _on_grid(logits_RV)
    best_RK, ids_RK = _best(logits_RV, min(count, logits_RV.shape[1]))
    top_R1 = best_RK[:, :1]
    log_sum_R1 = (top_R1 + _sums_of_exp(logits_RV, top_R1).log()).double()
    if logits_RV.dtype == torch.float64:
        log_sum_R1 = _on_grid(log_sum_R1)
    size_R = torch.maximum(top_R1.abs(), log_sum_R1.abs()).squeeze(1).double()
    return FewBest(best_RK.double() - log_sum_R1, ids_RK, logits_RV[:, end].double() - log_sum_R1.squeeze(1), size_R)


def _on_grid(values: Tensor) -> Tensor:
    return (values / GRID).round_().mul_(GRID)


def _best(logits_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    rows, vocabulary = logits_RV.shape
    asked = min(count + 1, vocabulary)                              # one more, to see a tie at the border
    columns = vocabulary // _COLUMN
    if columns <= 2 * asked:
        found_RK, ids_RK = logits_RV.topk(asked, dim=1)
    else:
        table_RJC = logits_RV[:, :_COLUMN * columns].unflatten(1, (_COLUMN, columns))
        chosen_R1K = table_RJC.amax(dim=1).topk(asked, dim=1).indices.unsqueeze(1)
        of_columns_RN = (torch.arange(_COLUMN, device=logits_RV.device)[:, None] * columns + chosen_R1K).flatten(1)
        behind_them_N = torch.arange(_COLUMN * columns, vocabulary, device=logits_RV.device)
        some_RN = torch.cat([of_columns_RN, behind_them_N.expand(rows, -1)], dim=1)
        found_RK, places_RK = logits_RV.gather(1, some_RN).topk(asked, dim=1)
        ids_RK = some_RN.gather(1, places_RK)
    if asked > count and bool((found_RK[:, count - 1] == found_RK[:, count]).any()):
        found_RK, ids_RK = logits_RV.sort(dim=1, descending=True, stable=True)
        return found_RK[:, :count], ids_RK[:, :count]
    return _by_value_then_id(found_RK[:, :count], ids_RK[:, :count])


def _by_value_then_id(values_RK: Tensor, ids_RK: Tensor) -> tuple[Tensor, Tensor]:
    ids_RK, order_RK = ids_RK.sort(dim=1)
    values_RK, again_RK = values_RK.gather(1, order_RK).sort(dim=1, descending=True, stable=True)
    return values_RK, ids_RK.gather(1, again_RK)


def _sums_of_exp(logits_RV: Tensor, top_R1: Tensor) -> Tensor:
    rows, vocabulary = logits_RV.shape
    slice_rows = max(1, _SLICE_BYTES // (4 * vocabulary)) if logits_RV.device.type == "cpu" else rows
    return torch.cat([(logits_RV[first:first + slice_rows] - top_R1[first:first + slice_rows]).exp_().sum(1, True)
                      for first in range(0, rows, slice_rows)])

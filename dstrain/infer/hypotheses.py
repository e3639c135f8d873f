"""The hypotheses of all lines that are searched together, as tensors: one token more, who finishes, who is done.

Shapes: L lines, W hypotheses of a line (one at first, then `beam`), R = L * W rows of the model, N candidates, K best
tokens of a row, T target tokens, V vocabulary. What is kept and when a line is done is defined in beam.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from dstrain.infer.few_best import few_best
from dstrain.infer.searching import Searching


class Found(NamedTuple):
    """One line's best hypothesis."""

    ids: list[int]
    """without the end"""
    score: float
    ties: int
    """how many decisions hang on rounding: there another batch shape may decide otherwise"""
    stopped: str
    """`end`: by its end token; `length`: at the line's limit"""


@dataclass
class Lines:
    """The lines that still run, all of them as tensors: no step goes through them one by one."""

    places_L: Tensor
    """in the batch"""
    limits_L: Tensor
    sums_LW: Tensor
    """of log p, float64; minus infinity where there are fewer than W hypotheses"""
    ids_LWT: Tensor
    finished_L: Tensor
    """how many hypotheses have finished"""
    best_L: Tensor
    """the best finished score, minus infinity without one"""
    second_L: Tensor
    best_ids_LT: Tensor
    best_length_L: Tensor
    """with its end"""
    border_L: Tensor
    """how far the last hypothesis that runs on is from the first that does not"""
    error_L: Tensor
    """the squares of what rounding can do to each step's log p, added up"""
    ties_L: Tensor

    @classmethod
    def at_start(cls, limits: Sequence[int], device: torch.device) -> Lines:
        count, longest = len(limits), max(limits)
        whole_L = torch.zeros(count, dtype=torch.long, device=device)
        exact_L = torch.zeros(count, dtype=torch.float64, device=device)
        return cls(places_L=torch.arange(count, device=device), limits_L=torch.tensor(limits, device=device),
                   sums_LW=exact_L[:, None], ids_LWT=whole_L[:, None, None].repeat(1, 1, longest),
                   finished_L=whole_L, best_L=exact_L - torch.inf, second_L=exact_L - torch.inf,
                   best_ids_LT=whole_L[:, None].repeat(1, longest), best_length_L=whole_L, border_L=exact_L,
                   error_L=exact_L, ties_L=whole_L)

    def of(self, lines_N: Tensor) -> Lines:
        return Lines(*(getattr(self, field.name)[lines_N] for field in fields(self)))

    def grow(self, logits_RV: Tensor, end: int, length: int, how: Searching, rounding: float) -> Tensor:
        """One token more. Returns the rows of the model that the running hypotheses have continued, [L, W]."""
        lines, width = self.sums_LW.shape
        few = few_best(logits_RV, how.beam + 2, end)    # without an end there are beam + 1: one behind the border
        error_L = (rounding * few.size_R.clamp(min=1.0)).view(lines, width).amax(1).square()
        self.error_L = error_L if width == 1 else self.error_L + error_L    # what all candidates share, parts none
        log_p_RK = few.log_p_RK.masked_fill(few.ids_RK == end, -torch.inf)
        sums_LN = (self.sums_LW[:, :, None] + log_p_RK.reshape(lines, width, -1)).flatten(1)
        sums_LN, ids_LN, parents_LN = _in_order(sums_LN, few.ids_RK.reshape(lines, -1), width, how.beam + 1)
        ends_LW = self.sums_LW + few.log_p_end_R.view(lines, width)
        self._finish(ends_LW, sums_LN, ids_LN[:, :how.beam] < end, length, how)
        self.border_L = sums_LN[:, how.beam - 1] - sums_LN[:, how.beam]

        sums_LN, ids_LN, parents_LN = sums_LN[:, :how.beam], ids_LN[:, :how.beam], parents_LN[:, :how.beam]
        self.sums_LW = sums_LN
        self.ids_LWT = self.ids_LWT.gather(1, parents_LN[:, :, None].expand(-1, -1, self.ids_LWT.shape[2]))
        self.ids_LWT[:, :, length - 1] = ids_LN
        return torch.arange(lines, device=parents_LN.device)[:, None] * width + parents_LN

    def slack(self) -> Tensor:
        """[L]: differences of sums up to this one may come out otherwise in another batch shape.

        Each step's log p is a difference of two logits, each exact to `ROUNDING` of its size, which is ten times what
        is usual. The steps' errors have nothing to do with each other, so that their squares add up.
        """
        return self.error_L.sqrt()

    def _finish(self, ends_LW: Tensor, sums_LN: Tensor, smaller_id_LN: Tensor, length: int, how: Searching) -> None:
        """Those of the hypotheses which end now that are among the best `beam` of all candidates."""
        others_LN = sums_LN[:, :how.beam]
        before_LWN = (others_LN[:, None] > ends_LW[:, :, None]) | (
            (others_LN[:, None] == ends_LW[:, :, None]) & smaller_id_LN[:, None])
        earlier_WW = torch.ones(ends_LW.shape[1], ends_LW.shape[1], dtype=torch.bool, device=ends_LW.device).tril(-1)
        before_LWW = (ends_LW[:, None] > ends_LW[:, :, None]) | (
            (ends_LW[:, None] == ends_LW[:, :, None]) & earlier_WW)
        is_in_LW = (before_LWN.sum(2) + before_LWW.sum(2) < how.beam) & (ends_LW > -torch.inf)

        border_LN = torch.cat([sums_LN, ends_LW], dim=1).topk(how.beam + 1, dim=1).values
        slack_L1 = self.slack()[:, None]
        open_LW = torch.where(is_in_LW, ends_LW - border_LN[:, how.beam:] <= slack_L1,
                              border_LN[:, how.beam - 1:how.beam] - ends_LW <= slack_L1)
        self.ties_L = self.ties_L + open_LW.any(1)

        scores_LW = ends_LW.masked_fill(~is_in_LW, -torch.inf) / how.divisor(length)
        score_L1, which_L1 = scores_LW.max(dim=1, keepdim=True)
        is_better_L = score_L1.squeeze(1) > self.best_L
        ids_LT = self.ids_LWT.gather(1, which_L1[:, :, None].expand(-1, -1, self.ids_LWT.shape[2])).squeeze(1)
        behind_L = torch.cat([scores_LW.scatter(1, which_L1, -torch.inf), self.second_L[:, None],
                              torch.minimum(self.best_L[:, None], score_L1)], dim=1).amax(1)
        self.second_L = behind_L
        self.best_L = torch.where(is_better_L, score_L1.squeeze(1), self.best_L)
        self.best_ids_LT = torch.where(is_better_L[:, None], ids_LT, self.best_ids_LT)
        self.best_length_L = torch.where(is_better_L, length, self.best_length_L)
        self.finished_L = self.finished_L + is_in_LW.sum(1)

    def _count_ties(self, difference_L: Tensor, matters_L: Tensor) -> None:
        """Of sums. NaN, between two that are not there, is no tie."""
        self.ties_L = self.ties_L + (matters_L & (difference_L <= self.slack()))

    def done(self, length: int, how: Searching) -> Tensor:
        """[L]: which lines end after `length` tokens. Counts where that, or the last choice, hangs on rounding."""
        lead_L = self.best_L - self.sums_LW[:, 0] / how.divisor(self.limits_L.double())
        at_limit_L, has_all_L, has_any_L = self.limits_L == length, self.finished_L >= how.beam, self.finished_L > 0
        done_L = at_limit_L | has_all_L | (has_any_L & (lead_L >= 0.0))

        best_divisor_L = how.divisor(self.best_length_L.double())
        self._count_ties(lead_L.abs() * best_divisor_L, has_any_L & ~has_all_L & ~at_limit_L)
        self._count_ties((self.best_L - self.second_L) * best_divisor_L, done_L & has_any_L)
        if how.beam > 1:
            self._count_ties(self.sums_LW[:, 0] - self.sums_LW[:, 1], done_L & ~has_any_L)
        self._count_ties(self.border_L, ~(done_L & has_any_L))
        return done_L

    def results(self, which_L: Tensor, length: int, how: Searching) -> list[tuple[int, Found]]:
        """Of these lines, with their places in the batch."""
        has_any_L = self.finished_L > 0
        ids_LT = torch.where(has_any_L[:, None], self.best_ids_LT, self.ids_LWT[:, 0])
        count_L = torch.where(has_any_L, self.best_length_L - 1, length)
        score_L = torch.where(has_any_L, self.best_L, self.sums_LW[:, 0] / how.divisor(length))
        columns = (column_L[which_L].tolist()
                   for column_L in (self.places_L, ids_LT, count_L, score_L, self.ties_L, has_any_L))
        return [(place, Found(ids[:count], score, ties, "end" if has_any else "length"))
                for place, ids, count, score, ties, has_any in zip(*columns, strict=True)]


def _in_order(sums_LN: Tensor, ids_LN: Tensor, width: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `count` candidates: sums, ids, and which hypothesis each continues. Filled up with what is not there."""
    parents_LN = torch.arange(width, device=ids_LN.device).repeat_interleave(ids_LN.shape[1] // width).expand_as(ids_LN)
    missing = count - ids_LN.shape[1]
    if missing > 0:
        sums_LN = torch.nn.functional.pad(sums_LN, (0, missing), value=-torch.inf)
        ids_LN, parents_LN = (torch.nn.functional.pad(tensor, (0, missing)) for tensor in (ids_LN, parents_LN))
    by_id_LN = ids_LN.argsort(dim=1, stable=True)
    sums_LN, by_sum_LN = sums_LN.gather(1, by_id_LN).sort(dim=1, descending=True, stable=True)
    order_LN = by_id_LN.gather(1, by_sum_LN[:, :count])
    return sums_LN[:, :count], ids_LN.gather(1, order_LN), parents_LN.gather(1, order_LN)

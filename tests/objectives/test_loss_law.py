"""The loss law against numbers that a reader can check by hand."""

from __future__ import annotations

import pytest
import torch

from dstrain.objectives.loss_law import loss_law


def test_it_is_the_weighted_sum_of_each_terms_own_mean():
    nll = torch.tensor([12.0, 30.0], dtype=torch.float64)
    assert loss_law(nll, torch.tensor([4, 5]), (1.0, 0.5)).item() == 3.0 + 0.5 * 6.0


def test_parts_divided_by_the_whole_steps_counts_add_up_to_the_step():
    # Micro-batches of 2 and 30 targets: a mean of means would give (5 + 1) / 2 = 3, the law (10 + 30) / 32.
    parts = [torch.tensor([10.0], dtype=torch.float64), torch.tensor([30.0], dtype=torch.float64)]
    counts = torch.tensor([32])
    assert sum(loss_law(part, counts, (1.0,)).item() for part in parts) == 1.25 == loss_law(sum(parts), counts, (1.0,))


def test_a_term_that_nothing_scores_is_zero_and_no_nan():
    nll = torch.tensor([6.0, 0.0], dtype=torch.float64, requires_grad=True)
    loss = loss_law(nll, torch.tensor([3, 0]), (1.0, 1.0))
    loss.backward()
    assert loss.item() == 2.0 and loss.dtype == torch.float64 and nll.grad.isfinite().all()


def test_numbers_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one each per term"):
        loss_law(torch.zeros(1), torch.ones(1), (1.0, 1.0))

"""The few best tokens: as sorting the whole vocabulary would find them, ids included, whatever ties."""

from __future__ import annotations

import pytest
import torch

from dstrain.infer.few_best import GRID, few_best


def sorted_best(logits_RV: torch.Tensor, count: int) -> tuple[list, torch.Tensor]:
    """Python's own sort, by value and then id."""
    log_p_RV = torch.log_softmax(logits_RV.double(), 1)
    ids = [sorted(range(len(row)), key=lambda token: (-row[token], token))[:count] for row in logits_RV.tolist()]
    return ids, log_p_RV.gather(1, torch.tensor(ids))


@pytest.mark.parametrize("vocabulary", [3, 7, 257, 640, 1000, 8192])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_they_are_those_that_a_sort_of_the_whole_vocabulary_puts_first(vocabulary, dtype):
    logits_RV = 4.0 * torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).to(dtype)
    for count in (1, 3, 7, 70):
        few = few_best(logits_RV, count, end=1)
        ids, log_p_RK = sorted_best(logits_RV, min(count, vocabulary))
        assert few.ids_RK.tolist() == ids
        tolerance = 2 * GRID if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(few.log_p_RK, log_p_RK, rtol=0, atol=tolerance)
        torch.testing.assert_close(few.log_p_end_R, torch.log_softmax(logits_RV.double(), 1)[:, 1], rtol=0,
                                   atol=tolerance)


@pytest.mark.parametrize("vocabulary", [20, 1000])
def test_of_equal_logits_the_smaller_ids_come_first_at_the_border_too(vocabulary):
    """Four values only: every border cuts through equal ones."""
    logits_RV = torch.randint(0, 4, (50, vocabulary), generator=torch.Generator().manual_seed(1)).float()
    logits_RV[0] = 2.5
    for count in (1, 2, 7):
        assert few_best(logits_RV, count, end=0).ids_RK.tolist() == sorted_best(logits_RV, count)[0]


def test_a_vocabulary_is_not_sorted_where_nothing_ties_at_the_border(monkeypatch):
    logits_RV = torch.arange(8192.0).flip(0).expand(4, -1)
    sizes = []
    for name in ("topk", "sort", "argsort"):
        inner = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name,
                            lambda self, *rest, _inner=inner, **more: sizes.append(self.shape[1])
                            or _inner(self, *rest, **more))
    assert few_best(logits_RV, 7, end=0).ids_RK[0].tolist() == list(range(7)) and max(sizes) < 1000


def test_in_float64_what_differs_by_less_than_a_step_is_equal():
    logits_RV = torch.zeros(1, 300, dtype=torch.float64)
    logits_RV[0, [250, 9, 100]] = torch.tensor([5.0 + 1e-12, 5.0, 5.0 + 3 * GRID], dtype=torch.float64)
    few = few_best(logits_RV, 3, end=0)
    assert few.ids_RK.tolist() == [[100, 9, 250]] and few.log_p_RK[0, 1] == few.log_p_RK[0, 2]
    assert (few.log_p_RK / GRID == (few.log_p_RK / GRID).round()).all()        # their sums are exact


def test_the_logits_stay_as_they_are():
    logits_RV = torch.randn(5, 900, generator=torch.Generator().manual_seed(0))
    before = logits_RV.clone()
    few_best(logits_RV, 4, end=2)
    assert torch.equal(logits_RV, before)

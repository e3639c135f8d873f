"""Which drafts stand: exactly the model's own distribution comes out, and what hangs on rounding is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dstrain.infer.accepting import Drawn, Outcome, stand_by_chance, stand_if_best
from dstrain.infer.choose import Choosing, Odds, drawn, odds

GRID = 60


def grid() -> Tensor:
    """So many numbers in [0, 1) that no border at a fraction of 60 is hit."""
    return (torch.arange(GRID).double() + 0.5) / GRID


def odds_of(p_NV: Tensor) -> Odds:
    none_N = torch.zeros(len(p_NV), dtype=torch.float64)
    return Odds(p_NV, None, none_N, none_N + 1e-13, none_N.bool())


def drafts_of(ids_BD: Tensor, q_BDV: Tensor) -> Drawn:
    none_BD = torch.zeros(ids_BD.shape, dtype=torch.float64)
    return Drawn(ids_BD, q_BDV, none_BD + 1e-13, none_BD, none_BD.bool())


@pytest.mark.parametrize("p, q", [
    ([6, 3, 2, 1], [3, 3, 3, 3]), ([3, 3, 3, 3], [6, 3, 2, 1]), ([12, 0, 0, 0], [1, 2, 3, 6]),
    ([0, 4, 4, 4], [6, 6, 0, 0]), ([0, 0, 6, 6], [6, 6, 0, 0]), ([1, 2, 3, 6], [1, 2, 3, 6]),
    ([2, 4, 4, 2], [0, 12, 0, 0]), ([1, 5, 5, 1], [3, 3, 6, 0])], ids=str)
def test_whatever_the_draft_was_drawn_from_the_models_own_distribution_comes_out(p, q):
    """Every draft, every number that accepts and every number that draws, once each: sums, no estimates. p and q are
    twelfths, q's of 1, 2, 3, 4, 6 or 12, so that every border is a sixtieth."""
    p_V, q_V = torch.tensor(p).double() / 12, torch.tensor(q).double() / 12
    drafts = q_V.nonzero().squeeze(1).repeat_interleave(GRID**2)
    accept, draw = grid().repeat_interleave(GRID).repeat(len(drafts) // GRID**2), grid().repeat(len(drafts) // GRID)
    rows, own_V = len(drafts), torch.tensor([0.0, 0.0, 0.5, 0.5]).double()
    p_BJV = torch.stack([p_V, own_V]).expand(rows, 2, 4).reshape(-1, 4)
    outcome = stand_by_chance(odds_of(p_BJV), drafts_of(drafts[:, None], q_V.expand(rows, 1, 4)),
                              torch.ones(rows).long(), accept[:, None], draw[:, None].expand(rows, 2))
    weight = q_V[drafts] / GRID**2
    came = torch.zeros(4, dtype=torch.float64).index_add(0, outcome.tokens_BJ[:, 0], weight)
    torch.testing.assert_close(came, p_V, rtol=0, atol=1e-12)
    stood = outcome.standing_B == 1
    assert weight[stood].sum().item() == pytest.approx(torch.minimum(p_V, q_V).sum().item(), abs=1e-12)
    # Behind a draft that stands comes a token of the next place's own odds, whatever the draft.
    behind = torch.zeros(4, dtype=torch.float64).index_add(0, outcome.tokens_BJ[stood, 1], weight[stood])
    torch.testing.assert_close(behind, own_V * weight[stood].sum(), rtol=0, atol=1e-12)


def test_each_row_is_judged_by_its_own_drafts_odds_and_numbers_as_it_would_be_alone():
    torch.manual_seed(1)
    rows, places, vocabulary = 120, 4, 7
    p_BJV = torch.softmax(torch.randn(rows, places, vocabulary, dtype=torch.float64), -1)
    q_BDV = torch.softmax(torch.randn(rows, places - 1, vocabulary, dtype=torch.float64), -1)
    ids_BD = torch.multinomial(q_BDV.flatten(0, 1), 1).view(rows, places - 1)
    counts_B, accept_BD = torch.arange(rows) % places, torch.rand(rows, places - 1).double()
    draw_BJ = torch.rand(rows, places).double()
    all_ = stand_by_chance(odds_of(p_BJV.flatten(0, 1)), drafts_of(ids_BD, q_BDV), counts_B, accept_BD, draw_BJ)
    assert (all_.standing_B <= counts_B).all() and set(all_.standing_B.tolist()) == {0, 1, 2, 3}
    for row, (count, standing) in enumerate(zip(counts_B.tolist(), all_.standing_B.tolist())):
        expected = []
        for place in range(count + 1):                                  # the rules, one place at a time
            p_V = p_BJV[row, place]
            if place < count:
                draft, q_V = int(ids_BD[row, place]), q_BDV[row, place]
                if accept_BD[row, place] < p_V[draft] / q_V[draft]:
                    expected.append(draft)
                    continue
                p_V = (p_V - q_V).clamp(min=0)
            cumulated = p_V.cumsum(0) / p_V.sum()
            expected.append(int((cumulated <= draw_BJ[row, place]).sum()))
            break
        assert all_.tokens_BJ[row, :standing + 1].tolist() == expected


def test_greedy_drafts_stand_up_to_the_first_that_is_not_the_best_token():
    best_BJ = torch.tensor([[1, 2, 3, 4]] * 5)
    drafts_BD = torch.tensor([[1, 2, 3], [1, 9, 3], [9, 2, 3], [1, 2, 3], [1, 2, 3]])
    found = stand_if_best(best_BJ, best_BJ == 2, drafts_BD, torch.tensor([3, 3, 3, 1, 0]))
    assert found.standing_B.tolist() == [3, 1, 0, 1, 0] and found.tokens_BJ is best_BJ


@pytest.mark.parametrize("p, q, accept, tie", [
    ([0.5, 0.5], [0.8, 0.2], 0.625 + 3e-6, True), ([0.5, 0.5], [0.8, 0.2], 0.625 - 3e-6, True),
    ([0.5, 0.5], [0.8, 0.2], 0.625 + 3e-5, False), ([0.5, 0.5], [0.8, 0.2], 0.625 - 3e-5, False),
    ([1.0, 0.0], [1.0, 0.0], 1 - 2**-52, False), ([0.0, 1.0], [1.0, 0.0], 0.0, False),
    ([0.5, 0.5], [0.5, 0.5], 1 - 2**-52, True), ([0.9, 0.1], [0.5, 0.5], 1 - 2**-52, False),
], ids=str)
def test_a_number_near_the_border_where_a_draft_stands_is_a_tie(p, q, accept, tie):
    """Differences of logits are exact to 1e-5. The draft is the first token, and the number that draws is in the middle
    of a stretch."""
    row = torch.zeros(1, dtype=torch.float64)
    own = Odds(torch.tensor([p, p]).double(), None, torch.zeros(2).double(), torch.full((2,), 1e-5).double(),
               torch.zeros(2, dtype=torch.bool))
    drafts = Drawn(row[:, None].long(), torch.tensor([[q]]).double(), row[:, None] + 1e-5, row[:, None],
                   torch.zeros(1, 1, dtype=torch.bool))
    found = stand_by_chance(own, drafts, torch.ones(1).long(), row[:, None] + accept, torch.full((1, 2), 0.3).double())
    assert found.tie_BJ[0, 0].item() is tie


WAYS = [Choosing(1.0), Choosing(0.7, top_k=20), Choosing(1.3, top_p=0.8), Choosing(0.9, top_k=40, top_p=0.7),
        Choosing(1e-6)]


def speculated(how: Choosing, p_logits_NV: Tensor, q_logits_NV: Tensor, numbers: list[Tensor], rounding: float,
               ) -> Outcome:
    """Drafts of one place, drawn from the second logits and judged by the first; the next place has these, too."""
    rows = len(p_logits_NV)
    q = odds(how, q_logits_NV, None, rounding)
    ids_B, tie_B = drawn(q, numbers[0])
    q_BV = q.p_BV / q.p_BV.sum(-1, keepdim=True)
    drafts = Drawn(*(values.unsqueeze(1) for values in (ids_B, q_BV, q.slack_B, q.astray_B, tie_B)))
    p = odds(how, p_logits_NV.repeat_interleave(2, dim=0), None, rounding)
    return stand_by_chance(p, drafts, torch.ones(rows).long(), numbers[1][:, None], torch.stack(numbers[2:], 1))


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_where_rounding_changes_a_token_a_tie_was_counted(how: Choosing):
    """Both models' logits moved 10 times by up to half the rounding, 1e-4: what changed was a tie, and few are."""
    torch.manual_seed(5)
    rounding, rows, vocabulary = 1e-4, 400, 300
    p_NV = 2 * torch.randn(rows, vocabulary, dtype=torch.float64)
    q_NV = p_NV + 0.7 * torch.randn(rows, vocabulary, dtype=torch.float64)
    numbers = [torch.rand(rows, dtype=torch.float64) for _ in range(4)]
    first = speculated(how, p_NV, q_NV, numbers, rounding)
    changed_B, counts = torch.zeros(rows, dtype=torch.bool), torch.arange(2) <= first.standing_B[:, None]
    for _ in range(10):
        moved = [logits + (torch.rand_like(logits).round() * 2 - 1) * rounding / 2 * logits.amax(-1, keepdim=True)
                 for logits in (p_NV, q_NV)]
        other = speculated(how, *moved, numbers, rounding)
        changed_B |= (other.standing_B != first.standing_B) | ((other.tokens_BJ != first.tokens_BJ) & counts).any(1)
    tie_B = (first.tie_BJ & counts).any(1)
    assert not (changed_B & ~tie_B).any()
    assert tie_B.double().mean() < 0.25
    if how.temperature > 1e-3:
        assert changed_B.any() and 0.3 < first.standing_B.double().mean() < 0.95

"""Choosing a token, against a slow reference in plain Python floats; borders, ties, and what is refused."""

from __future__ import annotations

import math
import random

import pytest
import torch

from dstrain.config.errors import UserError
from dstrain.infer.choose import Choosing, choose, penalized

EXACT = 1e-12


def reference(how: Choosing, logits: list[float], seen: set[int], uniform: float) -> int:
    """The rules, one token at a time."""
    if how.repetition_penalty != 1.0:
        logits = [logit if number not in seen else
                  logit / how.repetition_penalty if logit > 0 else logit * how.repetition_penalty
                  for number, logit in enumerate(logits)]
    best_first = sorted(range(len(logits)), key=lambda number: (-logits[number], number))
    if how.temperature == 0.0:
        return best_first[0]
    kept = best_first[:how.top_k] if how.top_k else best_first
    best = max(logits)
    weights = {number: math.exp((logits[number] - best) / how.temperature) for number in kept}
    total, reached, inside = math.fsum(weights.values()), [], set()
    for number in kept:
        inside.add(number)
        reached.append(weights[number])
        if how.top_p < 1.0 and math.fsum(reached) >= how.top_p * total:
            break
    total, passed = math.fsum(weights[number] for number in inside), 0.0
    for number in sorted(inside):
        passed += weights[number]
        if passed > uniform * total:
            return number
    return max(inside)


WAYS = [Choosing(), Choosing(repetition_penalty=1.4), Choosing(temperature=1.0), Choosing(temperature=0.5, top_k=3),
        Choosing(temperature=2.0, top_p=0.6), Choosing(temperature=0.9, top_k=5, top_p=0.7),
        Choosing(temperature=1.3, top_k=4, top_p=0.5, repetition_penalty=1.7),
        Choosing(temperature=1.0, repetition_penalty=0.6, top_k=1), Choosing(temperature=1.0, top_k=1000),
        Choosing(temperature=1.0, top_p=1e-9)]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("vocabulary", [2, 7, 12, 300])
def test_the_choice_is_the_references(how: Choosing, vocabulary: int):
    """Coarse logits have many equal ones (also at the borders), fine ones none. At first 256 are sorted."""
    chance = random.Random(vocabulary)
    rows = [[chance.randint(-3, 3) / 2 if n % 2 else chance.gauss(0, 2) for _ in range(vocabulary)] for n in range(60)]
    seen = [set(chance.sample(range(vocabulary), vocabulary // 2)) for _ in rows]
    uniforms = [chance.random() for _ in rows]
    seen_BV = torch.tensor([[number in marked for number in range(vocabulary)] for marked in seen])
    chosen = choose(how, torch.tensor(rows, dtype=torch.float64), seen_BV,
                    torch.tensor(uniforms, dtype=torch.float64), EXACT)
    expected = [reference(how, *row) for row in zip(rows, seen, uniforms)]
    unsure = [tie for tie in chosen.tie_B.tolist()]
    assert [a for a, tie in zip(chosen.tokens_B.tolist(), unsure) if not tie] == [
        b for b, tie in zip(expected, unsure) if not tie]
    fine = [tie for n, tie in enumerate(unsure) if n % 2 == 0]
    assert sum(fine) <= 1                                              # in float64 next to nothing is left out


def drawn(how: Choosing, logits: list[float], draws: int = 100) -> set[int]:
    uniform_B = (torch.arange(draws).double() + 0.5) / draws
    return set(choose(how, torch.tensor([logits] * draws), None, uniform_B, EXACT).tokens_B.tolist())


def test_equal_tokens_at_a_border_stay_by_id():
    level = [0.0] * 8
    assert drawn(Choosing(temperature=1.0, top_k=3), level) == {0, 1, 2}
    assert drawn(Choosing(temperature=1.0, top_p=0.5), level) == {0, 1, 2, 3}       # four eighths are a half
    assert drawn(Choosing(temperature=1.0, top_p=0.51), level) == {0, 1, 2, 3, 4}
    assert drawn(Choosing(temperature=1.0, top_k=4, top_p=0.5), level) == {0, 1}    # half of what top-k left
    high_last = [1.0, 2.0, 1.0, 2.0, 1.0, 3.0]
    assert drawn(Choosing(temperature=1.0, top_k=4), high_last) == {0, 1, 3, 5}
    assert drawn(Choosing(temperature=1.0, top_k=2), high_last) == {1, 5}
    assert drawn(Choosing(temperature=1.0, top_k=1), level) == {0} and choose(
        Choosing(), torch.tensor([level]), None, None, EXACT).tokens_B.tolist() == [0]


def test_top_p_over_a_level_vocabulary_that_is_larger_than_what_is_sorted_first():
    # 0.75 of 1,024 equal tokens: 768 of them, those with the smallest ids
    assert drawn(Choosing(temperature=1.0, top_p=0.75), [0.5] * 1024, draws=1024) == set(range(768))


def test_kept_tokens_are_drawn_as_often_as_their_probabilities_say():
    logits = [math.log(p) for p in (0.4, 0.05, 0.3, 0.05, 0.2)]
    uniform_B = (torch.arange(9000).double() + 0.5) / 9000
    counts = torch.bincount(choose(Choosing(temperature=1.0, top_k=3), torch.tensor([logits] * 9000), None, uniform_B,
                                   EXACT).tokens_B, minlength=5).tolist()
    assert counts == pytest.approx([4000, 0, 3000, 0, 2000], abs=1)


def test_options_that_are_off_give_the_very_numbers_of_softmax_and_cumulated_sums():
    logits_BV = torch.randn(200, 500, generator=torch.Generator().manual_seed(1)) * 4
    uniform_B = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    below_best_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)).double()
    cumulated_BV = torch.softmax(below_best_BV / 0.8, -1).cumsum(-1)
    expected = torch.searchsorted(cumulated_BV, uniform_B[:, None] * cumulated_BV[:, -1:], right=True).squeeze(1)
    for how in (Choosing(0.8), Choosing(0.8, top_k=500), Choosing(0.8, 0, 1.0, 1.0)):
        assert torch.equal(choose(how, logits_BV, None, uniform_B, 1e-5).tokens_B, expected)


def test_the_penalty_divides_positive_logits_and_multiplies_negative_ones():
    logits_BV = torch.tensor([[2.0, -2.0, 0.0, 3.0]])
    assert penalized(logits_BV, torch.tensor([[True, True, True, False]]), 4.0).tolist() == [[0.5, -8.0, 0.0, 3.0]]


@pytest.mark.parametrize("how, most", [
    (Choosing(), 0.05), (Choosing(temperature=1.0), 0.2), (Choosing(temperature=0.5, top_k=50), 0.1),
    (Choosing(temperature=2.0, top_p=0.6), 0.6), (Choosing(temperature=0.9, top_k=40, top_p=0.7), 0.1),
    (Choosing(temperature=1.3, top_k=200, top_p=0.5, repetition_penalty=1.7), 0.2)], ids=str)
def test_where_rounding_changes_a_choice_a_tie_was_counted(how: Choosing, most: float):
    """Logits moved 16 times by up to half the rounding, 1e-4: each changed choice was a tie, and not everything is one.

    At temperature 2 a token has 1/1000 of the probability: whether it is in moves the stretches of all behind it.
    """
    torch.manual_seed(3)
    rounding, rows, vocabulary = 1e-4, 150, 1000
    logits_BV = torch.randn(rows, vocabulary, dtype=torch.float64) * 2.5
    seen_BV = torch.rand(rows, vocabulary) < 0.1
    uniform_B = torch.rand(rows, dtype=torch.float64)
    first = choose(how, logits_BV, seen_BV, uniform_B, rounding)
    size_B1 = logits_BV.amax(-1, keepdim=True) * rounding / 2
    changed_B = torch.zeros(rows, dtype=torch.bool)
    for _ in range(8):
        moved_BV = (torch.rand_like(logits_BV).round() * 2 - 1) * size_B1
        for sign in (moved_BV, -moved_BV):
            other = choose(how, logits_BV + sign, seen_BV, uniform_B, rounding)
            changed_B |= other.tokens_B != first.tokens_B
    assert not (changed_B & ~first.tie_B).any()
    assert first.tie_B.double().mean() < most
    if how.top_p < 1.0 and not how.top_k:
        assert changed_B.any()                                          # or else all this shows nothing


@pytest.mark.parametrize("how, uniform, tie", [
    (Choosing(1.0), 0.5, True), (Choosing(1.0), 0.5 + 1e-4, False), (Choosing(1.0), 0.5 - 1e-4, False),
    (Choosing(1.0), 0.5 + 2e-6, True), (Choosing(1.0), 0.0, False), (Choosing(1.0), 1 - 2**-52, False),
    (Choosing(1.0, top_k=1), 0.5, True), (Choosing(1.0, top_p=0.5), 0.2, True), (Choosing(1.0, top_p=0.6), 0.2, False),
    (Choosing(0.0), None, True),
])
def test_ties_of_two_equal_tokens(how, uniform, tie):
    uniform_B = None if uniform is None else torch.tensor([uniform], dtype=torch.float64)
    assert choose(how, torch.zeros(1, 2), None, uniform_B, 1e-5).tie_B.tolist() == [tie]


def test_the_penalty_moves_rounding_too():
    """20 is exact to 20e-5, and its half lies 15e-5 from an unseen 10.00015, which is as inexact."""
    logits_BV, seen_BV = torch.tensor([[20.0, 10.00015, 0.0]]).double(), torch.tensor([[True, False, False]])
    assert choose(Choosing(repetition_penalty=2.0), logits_BV, seen_BV, None, 1e-5).tie_B.tolist() == [True]
    assert choose(Choosing(repetition_penalty=2.0), logits_BV, seen_BV, None, 5e-6).tie_B.tolist() == [False]


def test_the_coldest_draw_ties_where_the_best_token_does():
    for temperature in (1e-320, 1e-9):
        for logits, tie in (([1.0, 1.0 - 1e-7], True), ([1.0, 0.9], False)):
            chosen = choose(Choosing(temperature), torch.tensor([logits]), None, torch.tensor([0.3]).double(), 1e-5)
            assert (chosen.tokens_B.tolist(), chosen.tie_B.tolist()) == ([0], [tie])


@pytest.mark.parametrize("how, message", [
    (Choosing(-0.1), "temperature is -0.1, but must be"), (Choosing(math.nan), "temperature is nan"),
    (Choosing(math.inf), "temperature is inf"), (Choosing(1.0, top_k=-1), "top_k is -1, but must be at least 1, or 0"),
    (Choosing(1.0, top_p=0.0), "top_p is 0.0, but must be above 0 and at most 1"), (Choosing(1.0, top_p=1.1), "1.1"),
    (Choosing(1.0, top_p=math.nan), "top_p is nan"), (Choosing(repetition_penalty=0.0), "repetition_penalty is 0.0"),
    (Choosing(repetition_penalty=math.inf), "repetition_penalty is inf"),
    (Choosing(top_k=5), "top_k is 5, but at temperature 0 .* no effect: remove it, or set a temperature"),
    (Choosing(top_p=0.9), "top_p is 0.9, but at temperature 0"),
])
def test_what_cannot_be_or_has_no_effect_is_refused(how, message):
    with pytest.raises(UserError, match=message):
        how.check()


def test_defaults_and_usual_settings_are_accepted():
    for how in WAYS:
        how.check()

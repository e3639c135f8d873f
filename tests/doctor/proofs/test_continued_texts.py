"""What counts as the same continuation; that only a tie excuses another token; and which models cannot be tried."""

from __future__ import annotations

import math

import pytest
import torch

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.continued import Continued
from dstrain.doctor.finding import NotProven
from dstrain.doctor.proofs import continuations
from dstrain.doctor.proofs.continuations import beginnings
from dstrain.models.decoder_lm import DecoderLm


def of(ids: list[int], logprob: float = -2.0, ties: int = 0) -> Continued:
    return Continued(ids, logprob, ties)


@pytest.fixture(scope="module")
def case():
    case = Case.of(load_recipe("quickstart"))
    yield case
    case.close()


@pytest.mark.parametrize("found, expected, difference, ties", [
    (of([1, 2]), of([1, 2]), 0.0, 0), (of([1, 2], -2.02), of([1, 2], -2.0), 0.01, 0),
    (of([1, 3]), of([1, 2]), math.inf, 0), (of([1, 3], ties=1), of([1, 2]), 0.0, 1), (of([1]), of([1, 2]), math.inf, 0),
    (of([1, 2], math.nan), of([1, 2]), math.inf, 0)])
def test_only_a_tie_excuses_another_token(found, expected, difference, ties):
    error, left_out = continuations.differences([found], [expected])
    assert error == pytest.approx(difference) and left_out == ties


def test_a_model_that_nothing_generates_with_is_not_proven(case):
    with pytest.raises(NotProven, match="new_cache, extend, logits"):
        beginnings(case, torch.nn.Linear(2, 2), case.tokenizer())


def test_what_is_continued_has_different_lengths_and_hangs_on_its_beginning(case):
    """With weights as small as initial ones hardly anything hangs on what is attended: no wrong mask would show."""
    model = continuations.louder_model(case, case.tokenizer())
    rows = beginnings(case, model, case.tokenizer())
    lengths = [len(case.tokenizer().encode(text)) for text in (*rows.watched, rows.third, rows.other, rows.longer)]
    assert lengths == [2, 5, 3, 7, 7, 11]
    one, other = rows.cached(model, ["one text", "two text"])
    assert abs(one.logprob - other.logprob) > 0.1 * abs(one.logprob)


def test_a_cache_that_rounds_to_bf16_is_found(case, monkeypatch):
    inner = DecoderLm.extend
    monkeypatch.setattr(DecoderLm, "extend", lambda self, *arguments: (x := inner(self, *arguments)).bfloat16().to(x))
    finding = continuations.prove(case)
    assert not finding.passed and "a cache changes them" in finding.cause and finding.remedy

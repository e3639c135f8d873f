"""What only scale shows: one row as long as the recipe's own, with the model in small."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.registry import PROOFS
from dstrain.nn import masks

RECIPES = {"lm": ("quickstart", ["batch.length=160"]),
           "translate": ("numbers-en-de", ["tokenizer=bytes", "batch.length=160", "model.positions=learned"])}


@pytest.fixture(scope="module", params=RECIPES)
def case(request):
    with closing(Case.of(load_recipe(*RECIPES[request.param]))) as small:
        yield small


def test_one_row_is_as_long_as_the_recipes_and_each_target_is_its_next_token(case):
    subject = case.long_subject()
    ids, lengths = subject.batch[subject.roles.ids], subject.lengths_B
    assert ids.shape == (1, 160) and int(lengths[0]) > 150
    assert subject.module.model.settings.width == 32
    scored = subject.targets[0][0, :int(lengths[0]) - 1]
    assert float((scored == ids[0, 1:int(lengths[0])]).float().mean()) > 0.98  # where a document ends is an end


def test_a_mask_that_ends_at_64_tokens_is_found_by_the_long_row_alone(case, monkeypatch):
    assert PROOFS["future"].prove(case).passed
    right = masks._not_later_TT

    def wrong(slots: int, device: torch.device) -> torch.Tensor:
        return right(slots, device) | (torch.arange(slots, device=device)[:, None] >= 64)

    monkeypatch.setattr(masks, "_not_later_TT", wrong)
    finding = PROOFS["future"].prove(case)
    assert not finding.passed and "only in a row of full length" in finding.cause

"""One small recipe and live groups of 1 to 4 ranks, shared by all tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case


@pytest.fixture(scope="session")
def case():
    """The quickstart recipe in small: 8 rows of 32 tokens in 4 lanes, dropout 0.1, cut to very different lengths."""
    small = Case.of(load_recipe("quickstart"))
    assert small.recipe.model.dropout == 0.1 and small.recipe.batch.rows == 8 and small.recipe.data.lanes == 4
    yield small
    small.close()


@pytest.fixture(scope="session")
def moe(case):
    """The same of moe-quickstart, on the same ranks: 4 experts in each of 2 layers, 2 for a token, 4 heads, dropout
    0.1, both balances; clipped at 0.3, which bites in every step."""
    small = Case.of(load_recipe("moe-quickstart"))
    small.groups = case.groups
    recipe = small.recipe
    assert recipe.model.experts == 4 and recipe.objective.balance == "both" and recipe.model.dropout == 0.1
    small.recipe = replace(recipe, optim=replace(recipe.optim, clip=0.3))
    yield small
    small.close()

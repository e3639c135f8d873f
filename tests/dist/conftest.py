"""One small recipe and live groups of 1 to 4 ranks, shared by all tests of this folder."""

from __future__ import annotations

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

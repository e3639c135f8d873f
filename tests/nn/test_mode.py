"""Evaluation mode ends where it began, in every case."""

from __future__ import annotations

import pytest
from torch import nn

from dstrain.nn.mode import in_eval


def test_every_module_gets_its_own_mode_back_also_after_an_exception():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)))
    model.train()
    model[1].eval()                                     # a frozen part inside a training model
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), in_eval(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before == [True, True, False, False]

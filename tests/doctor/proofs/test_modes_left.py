"""The proof of modes sees what a way through the model does: not only where it ends, but that it ran in evaluation."""

from __future__ import annotations

import torch
from torch import nn

from dstrain.doctor.proofs.mode import Broken, _faults_of
from dstrain.nn.mode import in_eval


def faults(way, breaks: bool = False) -> list[str]:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
    return list(_faults_of("sampling", lambda: way(model), dict(model.named_modules()), breaks))


def pass_through(model: nn.Module) -> None:
    for _ in range(3):
        model(torch.zeros(1, 2))


def rightly(model: nn.Module) -> None:
    with in_eval(model):
        pass_through(model)


def test_a_way_that_keeps_the_modes_has_no_fault_also_when_it_breaks():
    assert faults(rightly) == faults(rightly, breaks=True) == []


def test_a_way_that_never_switches_is_named():
    found, = faults(pass_through)
    assert found == "sampling runs 3 modules in training mode (the trainee)"  # the last was in evaluation mode before


def test_a_way_that_swallows_the_exception_or_never_runs_the_model_has_proven_nothing():
    def swallows(model: nn.Module) -> None:
        try:
            rightly(model)
        except Broken:
            pass

    assert "never ran" in faults(swallows, breaks=True)[0]
    assert faults(lambda model: None) == ["sampling never ran a module of the model"]


def test_a_part_that_was_kept_in_evaluation_mode_is_watched_too():
    def by_train(model: nn.Module) -> None:
        rightly(model)
        model.train()

    assert faults(by_train) == ["sampling leaves 1 modules in another mode (2)"]

"""The lr is looked at in every step of a run, and of the longest runs in every step near a bend."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstrain.config.load import load_recipe
from dstrain.config.schema import Schedule
from dstrain.doctor.case import Case
from dstrain.doctor.proofs import curve

STABLE = Schedule(name="WarmupStableDecayLR", warmup_steps=3_000, decay_steps=100_000)


@pytest.fixture(scope="module")
def case():
    case = Case.of(load_recipe("quickstart"))
    case.ranks(1)  # before the others are made of it: all share these ranks
    yield case
    case.close()


def test_all_steps_of_a_run_are_looked_at():
    assert curve.looked_at(STABLE, 200_000) == list(range(1, 200_001))


def test_of_a_longer_run_its_bends_and_its_end_are_looked_at_step_by_step():
    steps = curve.looked_at(STABLE, 1_000_000)
    assert steps == sorted(set(steps)) and len(steps) < 210_000 and steps[0] == 1 and steps[-1] == 1_000_000
    for bend in (3_000, 900_000):
        assert set(range(bend - 1_000, bend + 1_001)) <= set(steps)
    assert set(range(999_000, 1_000_001)) <= set(steps)
    assert max(later - earlier for earlier, later in zip(steps, steps[1:])) == 5


@pytest.mark.ranks
@pytest.mark.parametrize("settings", [
    ["schedule.name=WarmupStableDecayLR", "schedule.decay_steps=70", "schedule.warmup=log", "optim.name=muon",
     "optim.muon_lr=0.02"],
    ["schedule.name=WarmupDecayLR", "schedule.warmup_steps=0", "schedule.floor=0.0"],
    ["schedule.name=WarmupLR", "schedule.warmup_steps=450", "schedule.floor=0.0"]])
def test_every_schedule_is_the_requested_one_to_the_end(case, settings):
    recipe = load_recipe("quickstart", settings)
    other = replace(case, recipe=replace(case.recipe, schedule=recipe.schedule, optim=recipe.optim))
    finding = curve.prove(other)
    assert finding.passed and "in 450 of 450 steps" in finding.figure, finding


@pytest.mark.ranks
def test_a_decay_that_ends_before_the_run_is_named_with_its_step(case, monkeypatch):
    """The scheduler was built with other numbers of steps than the run has, as from another place in the code."""
    monkeypatch.setattr(curve, "asked_share", lambda schedule, step, steps: asked(schedule, step, steps + 50))
    finding = curve.prove(case)
    assert not finding.passed and finding.cause and finding.remedy and "largest at step" in finding.figure


def asked(schedule: Schedule, step: int, steps: int) -> float:
    from dstrain.doctor.proofs.schedule import asked_share
    return asked_share(schedule, step, steps)

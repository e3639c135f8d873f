"""The curves by hand, as shares of the peak."""

from __future__ import annotations

import pytest
import torch
from deepspeed.runtime import lr_schedules

from dstrain.config.schema import Schedule
from dstrain.runtime.schedules import build_schedule, share_of_peak


def test_warmup_stable_decay_by_hand():
    """10 steps: 2 up, 4 at the peak, 4 down to a floor of 0.2."""
    schedule = Schedule(name="WarmupStableDecayLR", warmup_steps=2, decay_steps=4, floor=0.2)
    by_hand = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    assert [share_of_peak(schedule, 10, step) for step in range(1, 11)] == pytest.approx(by_hand, abs=1e-15)


def test_warmup_stable_decay_without_a_stable_part_and_down_to_nothing():
    schedule = Schedule(name="WarmupStableDecayLR", warmup_steps=2, decay_steps=2)
    assert [share_of_peak(schedule, 4, step) for step in range(1, 6)] == [0.5, 1.0, 0.5, 0.0, 0.0]


def test_each_group_has_its_own_peak_and_the_schedule_looks_like_deepspeeds():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "peak_lr": lr} for lr in (1.0, 0.25)]
    optimizer = torch.optim.SGD(groups)
    schedule = build_schedule(Schedule(name="WarmupStableDecayLR", warmup_steps=4, decay_steps=2), 8, optimizer)
    assert isinstance(schedule, lr_schedules.WarmupLR)
    used = []
    for step in range(1, 9):
        schedule.step(step)
        used.append([group["lr"] for group in optimizer.param_groups])
    assert used == [[share, share / 4] for share in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.0)]

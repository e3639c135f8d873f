"""DeepSpeed's three warm-up schedules with the learning rate that their names promise, at optimizer steps 1, 2, ...

DeepSpeed's own run their first two steps at 0, and WarmupCosineLR can miss its peak. These subclasses keep the classes'
names and settings and replace the curve by a pure function of the optimizer step. The trainer sets the step before
each update, so a resumed run, a skipped step or another accumulation reads the same curve.
"""

from __future__ import annotations

import math

from deepspeed.runtime import lr_schedules

from dstrain.config.schema import Schedule


def build_schedule(schedule: Schedule, peak_lr: float, steps: int, optimizer):
    """The named schedule over `optimizer`; call `.step(n)` before optimizer step n (from 1)."""
    if schedule.name == "WarmupLR":
        return WarmupLR(schedule, peak_lr, steps, optimizer, warmup_max_lr=peak_lr)
    if schedule.name == "WarmupDecayLR":
        return WarmupDecayLR(schedule, peak_lr, steps, optimizer, warmup_max_lr=peak_lr, total_num_steps=steps)
    return WarmupCosineLR(schedule, peak_lr, steps, optimizer, cos_min_ratio=schedule.floor, total_num_steps=steps)


def share_of_peak(schedule: Schedule, steps: int, step: int) -> float:
    """The learning rate at optimizer step `step` (1 .. steps), as a share of its peak."""
    warmup = schedule.warmup_steps
    if step < warmup:
        return step / warmup if schedule.warmup == "linear" else math.log(step + 1) / math.log(warmup + 1)
    if schedule.name == "WarmupLR":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    fall = 1.0 - done if schedule.name == "WarmupDecayLR" else 0.5 * (1.0 + math.cos(math.pi * done))
    return schedule.floor + (1.0 - schedule.floor) * fall


class _ByStep:
    """Replaces the curve of a DeepSpeed schedule."""

    def __init__(self, schedule: Schedule, peak_lr: float, steps: int, optimizer, **of_deepspeed):
        self.schedule, self.peak_lr, self.steps = schedule, peak_lr, steps
        super().__init__(optimizer, warmup_num_steps=max(2, schedule.warmup_steps), warmup_type=schedule.warmup,
                         **of_deepspeed)
        self.step(1)

    def get_lr(self) -> list[float]:
        lr = self.peak_lr * share_of_peak(self.schedule, self.steps, max(1, self.last_batch_iteration))
        return [lr] * len(self.optimizer.param_groups)


class WarmupLR(_ByStep, lr_schedules.WarmupLR):
    """Rises, then stays at the peak."""


class WarmupDecayLR(_ByStep, lr_schedules.WarmupDecayLR):
    """Rises, then falls in a line to the floor."""


class WarmupCosineLR(_ByStep, lr_schedules.WarmupCosineLR):
    """Rises, then falls in a cosine to the floor."""

"""DeepSpeed's three warm-up schedules, and one more, with the lr that their names promise at optimizer steps 1, 2, ...

DeepSpeed's own run their first two steps at 0, WarmupCosineLR can miss its peak, and all give every parameter group the
same lr. These subclasses keep the classes' names and settings and replace the curve by a pure function of the optimizer
step, times each group's own peak. The trainer sets the step before each update, so a resumed run, a skipped step or
another accumulation reads the same curve.
"""

from __future__ import annotations

import math

from deepspeed.runtime import lr_schedules

from dstrain.config.schema import Schedule


def build_schedule(schedule: Schedule, steps: int, optimizer):
    """The named schedule over `optimizer`, whose groups say their "peak_lr"; call `.step(n)` before optimizer step n
    (from 1)."""
    peaks = [group["peak_lr"] for group in optimizer.param_groups]
    if schedule.name == "WarmupCosineLR":
        return WarmupCosineLR(schedule, steps, optimizer, cos_min_ratio=schedule.floor, total_num_steps=steps)
    if schedule.name == "WarmupDecayLR":
        return WarmupDecayLR(schedule, steps, optimizer, warmup_max_lr=peaks, total_num_steps=steps)
    of_name = {"WarmupLR": WarmupLR, "WarmupStableDecayLR": WarmupStableDecayLR}[schedule.name]
    return of_name(schedule, steps, optimizer, warmup_max_lr=peaks)


def share_of_peak(schedule: Schedule, steps: int, step: int) -> float:
    """The learning rate at optimizer step `step` (1 .. steps), as a share of its peak."""
    warmup = schedule.warmup_steps
    if step < warmup:
        return step / warmup if schedule.warmup == "linear" else math.log(step + 1) / math.log(warmup + 1)
    if schedule.name == "WarmupLR":
        return 1.0
    begin = steps - schedule.decay_steps if schedule.name == "WarmupStableDecayLR" else warmup
    done = min(1.0, max(0.0, (step - begin) / max(1, steps - begin)))
    fall = 0.5 * (1.0 + math.cos(math.pi * done)) if schedule.name == "WarmupCosineLR" else 1.0 - done
    return schedule.floor + (1.0 - schedule.floor) * fall


class _ByStep:
    """Replaces the curve of a DeepSpeed schedule."""

    def __init__(self, schedule: Schedule, steps: int, optimizer, **of_deepspeed):
        self.schedule, self.steps = schedule, steps
        super().__init__(optimizer, warmup_num_steps=max(2, schedule.warmup_steps), warmup_type=schedule.warmup,
                         **of_deepspeed)
        self.step(1)

    def get_lr(self) -> list[float]:
        share = share_of_peak(self.schedule, self.steps, max(1, self.last_batch_iteration))
        return [group["peak_lr"] * share for group in self.optimizer.param_groups]


class WarmupLR(_ByStep, lr_schedules.WarmupLR):
    """Rises, then stays at the peak."""


class WarmupDecayLR(_ByStep, lr_schedules.WarmupDecayLR):
    """Rises, then falls in a line to the floor."""


class WarmupCosineLR(_ByStep, lr_schedules.WarmupCosineLR):
    """Rises, then falls in a cosine to the floor."""


class WarmupStableDecayLR(_ByStep, lr_schedules.WarmupLR):
    """Rises, stays at the peak, and falls in a line to the floor in the run's last `decay_steps` steps."""

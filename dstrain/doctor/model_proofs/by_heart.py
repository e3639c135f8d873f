"""One batch can be learned by heart, and every trainable parameter moves on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.law import count, floor
from dstrain.doctor.model_proofs.probes import IGNORED, part_of, pass_through, untouched
from dstrain.doctor.subject import Subject

CLAIM = "one batch can be learned by heart: its loss falls to a tenth, and every parameter with a gradient moves"
SHARE = 0.1
"""of the way from the least possible loss to the first one"""
STEPS = 150
"""healthy small models need 20 to 50"""
LRS = (1e-2, 2e-3)
"""the second one for models that the first one is too much for"""
SECONDS = 60.0
TARGETS = 64
"""about as many as are learned: few rows are enough"""


class Course(NamedTuple):
    first: float
    last: float
    least: float
    """what nobody can get below on this batch"""
    steps: int
    unmoved: list[str]
    """parameters that had gradients and stood still. Without one: the proof of the gradients (and of experts some may
    not be chosen by these few tokens)"""
    in_time: bool

    @property
    def reached(self) -> bool:
        return _reached(self.last, self.first, self.least)


def prove(subject: Subject) -> Finding:
    small = _few_rows(subject)
    until = time.perf_counter() + SECONDS
    for lr in LRS:
        with learned(small, lr, until) as course:
            pass
        if course.reached and not course.unmoved:
            break
    figure = (f"loss {course.first:.3f} to {course.last:.3f} in {course.steps} steps of AdamW on "
              f"{sum(map(count, small.targets)):,} targets (least possible {course.least:.3f})")
    figure += f"; not moved: {', '.join(course.unmoved[:4])}" if course.unmoved else ""
    bound = course.least + SHARE * (course.first - course.least)
    tolerance = f"{bound:.3f}: a tenth of the way that is left; all that had gradients moved"
    if course.reached and not course.unmoved:
        return Finding(True, figure, tolerance)
    if not course.in_time:
        raise NotProven(f"{figure}: given up after {SECONDS:.0f} s")
    if course.unmoved:
        return Finding(False, figure, tolerance, "steps that are lost in the parameters' 16 bits",
                       "keep float32 weights; see the proof of the gradients")
    return Finding(False, figure, tolerance, "what is needed does not arrive: inputs that are masked or mixed up, "
                   "targets that are not those of the inputs, a detached part, or a loss that is not the targets'",
                   "see the proofs of arguments, targets and gradients; then try a higher lr by hand")


@contextmanager
def learned(subject: Subject, lr: float = LRS[0], until: float = math.inf) -> Iterator[Course]:
    """The module with its weights after plain AdamW without decay, dropout off, for a while: they are put back."""
    module, least = subject.module, floor(subject)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    with untouched(module):
        try:
            first, last, steps, pulled = _train(subject, trained, lr, least, until)
            unmoved = [name for name in trained if name in pulled and torch.equal(trained[name], before[name])]
            yield Course(first, last, least, steps, unmoved, time.perf_counter() < until)
        finally:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(before[name])


def _train(subject: Subject, trained: dict[str, nn.Parameter], lr: float, least: float,
           until: float) -> tuple[float, float, int, set[str]]:
    """(first loss, last loss, steps, parameters that ever had a gradient). Ends as soon as the batch is known."""
    optimizer = torch.optim.AdamW(trained.values(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    first, steps, pulled = None, 0, set()
    while True:
        seen = pass_through(subject, training=False)
        last = float(seen.predicted.detach())
        first = last if first is None else first
        if (_reached(last, first, least) or steps == STEPS or time.perf_counter() > until or not math.isfinite(last)):
            return first, last, steps, pulled
        optimizer.zero_grad()
        seen.loss.backward()
        pulled |= {name for name, parameter in trained.items() if name not in pulled
                   and parameter.grad is not None and bool((parameter.grad != 0).any())}
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        steps += 1


def _reached(loss: float, first: float, least: float) -> bool:
    return loss <= least + SHARE * (first - least)


def _few_rows(subject: Subject) -> Subject:
    """The first rows, with about 64 targets of the first head."""
    scored_B = (subject.targets[0] != IGNORED).sum(1)
    rows = int((scored_B.cumsum(0) < TARGETS).sum()) + 1
    return part_of(subject, torch.arange(min(rows, len(scored_B)), device=scored_B.device))

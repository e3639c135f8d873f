"""One batch can be learned by heart, and every trainable parameter moves on the way."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import nn

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.law import count, floor
from dstrain.doctor.model_proofs.probes import part_of, pass_through, untouched
from dstrain.doctor.subject import Subject

CLAIM = "one batch can be learned by heart: its loss falls to a tenth, and every trainable parameter moves"
SHARE = 0.1
"""of the way from the least possible loss to the first one"""
STEPS = 300
LRS = (1e-2, 2e-3)
"""the second one for models that the first one is too much for"""
SECONDS = 60.0
TARGETS = 64
"""about as many as are learned: few rows are enough"""


class Course(NamedTuple):
    first: float
    last: float
    steps: int
    unmoved: list[str]
    in_time: bool


def prove(subject: Subject) -> Finding:
    small = _few_rows(subject)
    least = floor(small)
    course, began = None, time.perf_counter()
    for lr in LRS:
        course = learn(small, lr, least, began)
        if _reached(course.last, course.first, least) and not course.unmoved:
            break
    figure = (f"loss {course.first:.3f} to {course.last:.3f} in {course.steps} steps of AdamW on "
              f"{sum(map(count, small.targets)):,} targets (least possible {least:.3f})")
    figure += f"; not moved: {', '.join(course.unmoved[:4])}" if course.unmoved else ""
    bound = least + SHARE * (course.first - least)
    tolerance = f"{bound:.3f}: a tenth of the way that is left; all parameters moved"
    if _reached(course.last, course.first, least) and not course.unmoved:
        return Finding(True, figure, tolerance)
    if not course.in_time:
        raise NotProven(f"{figure}: given up after {SECONDS:.0f} s")
    if course.unmoved:
        return Finding(False, figure, tolerance, "parameters that no gradient reaches, or that 16 bits cannot move",
                       "see the proof of the gradients")
    return Finding(False, figure, tolerance, "what is needed does not arrive: inputs that are masked or mixed up, "
                   "targets that are not those of the inputs, a detached part, or a loss that is not the targets'",
                   "see the proofs of arguments, targets and gradients; then try a higher lr by hand")


def learn(subject: Subject, lr: float, least: float, began: float) -> Course:
    """Plain AdamW without decay, dropout off, in place; the weights are put back."""
    module = subject.module
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    losses, steps, in_time = [], 0, True
    with untouched(module):
        try:
            optimizer = torch.optim.AdamW(trained.values(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
            while True:
                loss = pass_through(subject, training=False).loss
                losses.append(float(loss.detach()))
                in_time = time.perf_counter() - began < SECONDS
                if _reached(losses[-1], losses[0], least) or steps == STEPS or not in_time or not math.isfinite(losses[-1]):
                    break
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained.values(), 1.0)
                optimizer.step()
                steps += 1
            unmoved = [name for name, parameter in trained.items() if torch.equal(parameter, before[name])]
        finally:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(before[name])
    return Course(losses[0], losses[-1], steps, unmoved, in_time)


def _reached(loss: float, first: float, least: float) -> bool:
    return loss <= least + SHARE * (first - least)


def _few_rows(subject: Subject) -> Subject:
    """The first rows, with about 64 targets of the first head."""
    scored_B = (subject.targets[0] != -100).sum(1)
    rows = int((scored_B.cumsum(0) < TARGETS).sum()) + 1
    return part_of(subject, torch.arange(min(rows, len(scored_B)), device=scored_B.device))

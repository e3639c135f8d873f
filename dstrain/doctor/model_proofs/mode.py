"""Evaluation switches dropout off, and leaves every part of the module in the mode that it was in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dstrain.doctor.finding import Finding
from dstrain.doctor.model_proofs.probes import untouched
from dstrain.doctor.subject import Subject

CLAIM = "evaluation runs in eval mode and leaves every part's mode as it was, an exception included"


class Interrupted(Exception):
    """Raised in the middle of an evaluation by its proof."""


def prove(subject: Subject, evaluate: Callable[[nn.Module], Any]) -> Finding:
    module, left, in_training = subject.module, [], 0
    parts = list(module.modules())
    with untouched(module):
        for name, frozen in (("in training", []), ("with a part in eval mode", parts[-1:]), ("in eval mode", parts)):
            for stops in (False, True):
                module.train()
                for part in frozen:
                    part.training = False
                before = [part.training for part in parts]
                in_training += _ran_in_training(module, evaluate, stops)
                changed = sum(part.training != mode for part, mode in zip(parts, before, strict=True))
                if changed:
                    left.append(f"{changed} of {len(parts)} after {'an exception' if stops else 'it'} {name}")
    figure = f"modes changed: {', '.join(left) or 'none'}; forward passes in training mode: {in_training}"
    tolerance = f"none of {len(parts)} parts, in 6 evaluations, 3 of them interrupted; none in training mode"
    if not left and not in_training:
        return Finding(True, figure, tolerance)
    cause = ("eval() without a train() after it, or one that an exception passes by, or a train() that does not know "
             "what was in eval mode before" if left else "eval() is never called: dropout is on in every score")
    return Finding(False, figure, tolerance, cause,
                   "note every part's mode, call eval(), and put the modes back in a `finally`")


def _ran_in_training(module: nn.Module, evaluate: Callable[[nn.Module], Any], stops: bool) -> int:
    """Evaluates once; how many forward passes of the module, or of a part called alone, ran in training mode."""
    found = 0

    def look(part: nn.Module, arguments: tuple) -> None:
        nonlocal found
        found += part is module and part.training
        if stops:
            raise Interrupted

    hooks = [part.register_forward_pre_hook(look) for part in module.modules()]
    try:
        evaluate(module)
    except Interrupted:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found

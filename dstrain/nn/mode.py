"""Evaluation mode for a while, and every module's own mode back afterwards, exceptions included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Module by module: a part that was frozen in eval mode inside a training model stays so."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training

"""The backward pass is the derivative of the forward pass: held to finite differences, which no backward wrote."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.model_proofs.probes import pass_through, stir, untouched
from dstrain.doctor.subject import Subject

CLAIM = "each parameter's gradient is the derivative of the loss, by finite differences in float64"
BOUND = 1e-4
"""of the gradient's length: what third derivative and last place leave; a wrong backward is off by tenths"""
STEPS = (1e-4, 1e-6)
"""lengths of a step, of the parameter's own length; the shorter one where a ReLU's kink or a choice of experts is
near"""
LAST_PLACE = 5e-11
"""of the loss: what a difference loses to rounding, divided by the step and by the bound"""
SECONDS = 60.0
NARROW = (torch.float32, torch.float16, torch.bfloat16)


class InDoubles(TorchFunctionMode):
    """Whatever asks for a narrower float gets a float64."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in (Tensor.float, Tensor.half, Tensor.bfloat16):
            function = Tensor.double
        args = tuple(torch.float64 if one in NARROW else one for one in args) if _says_dtype(args) else args
        kwargs = {name: torch.float64 if isinstance(one, torch.dtype) and one in NARROW else one
                  for name, one in (kwargs or {}).items()}
        return function(*args, **kwargs)


def _says_dtype(args: tuple) -> bool:
    return any(isinstance(one, torch.dtype) for one in args)


def prove(subject: Subject) -> Finding:
    with untouched(subject.module), in_doubles(subject) as doubled:
        trained = {name: one for name, one in doubled.module.named_parameters() if one.requires_grad and one.numel()}
        if not trained:
            raise NotProven("no parameter is trained")
        loss = _loss(doubled)
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        off, until = {}, time.perf_counter() + SECONDS
        for (name, parameter), grad in zip(trained.items(), found, strict=True):
            grad = torch.zeros_like(parameter) if grad is None else grad.to_dense()
            off[name] = _off(doubled, parameter, grad, abs(float(loss.detach())))
            if time.perf_counter() > until and len(off) < len(trained):
                raise NotProven(f"given up after {SECONDS:.0f} s: {len(off)} of {len(trained)} parameters tried")
    wrong = {name: error for name, error in off.items() if not error <= BOUND}
    figure = f"{max(off.values()):.1e} of a gradient's length at most, {len(wrong)} of {len(off)} parameters off"
    tolerance = f"at most {BOUND:.0e}: finite differences and float64 lose less, a wrong backward more"
    if not wrong:
        return Finding(True, figure, tolerance)
    some = ", ".join(f"{name} by {error:.1e}" for name, error in list(wrong.items())[:4])
    return Finding(False, f"{figure}: {some}", tolerance,
                   "a backward written by hand that is not its forward's, a hook that changes a gradient, a number "
                   "that is detached on the way, or a gradient that is meant to be another one (straight through a "
                   "rounding)",
                   "hold the function to torch.autograd.gradcheck; where it is meant, leave this proof out by name")


@contextmanager
def in_doubles(subject: Subject) -> Iterator[Subject]:
    """A copy of the subject that computes in float64, with no parameter at zero. Raises NotProven where it cannot."""
    usual = torch.get_default_dtype()
    try:
        module = copy.deepcopy(subject.module).double()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise NotProven(f"the module cannot be copied to float64 ({_short(error)})") from error
    stir(one.data for one in module.parameters() if one.requires_grad and not bool(one.detach().any()))
    batch = {name: one.double() if one.is_floating_point() else one for name, one in subject.batch.items()}
    doubled = replace(subject, module=module, batch=batch)
    torch.set_default_dtype(torch.float64)
    try:
        with InDoubles():
            try:
                first, again = _loss(doubled), _loss(doubled)
            except (RuntimeError, TypeError, NotImplementedError) as error:
                raise NotProven(f"the model does not run in float64 ({_short(error)})") from error
            if first.dtype != torch.float64 or not first.requires_grad:
                raise NotProven(f"the model does not run in float64: its loss comes in {first.dtype}, with"
                                f"{'' if first.requires_grad else 'out'} a gradient")
            if float(first.detach()) != float(again.detach()):
                raise NotProven("the same batch gives another loss each time")
            yield doubled
    finally:
        torch.set_default_dtype(usual)


def _loss(subject: Subject) -> Tensor:
    return pass_through(subject).loss


def _off(subject: Subject, parameter: nn.Parameter, grad: Tensor, loss: float) -> float:
    """How far the gradient is from the slope, as a share of its length: in a direction that is half its own, which
    shows a wrong size best, and half a fixed random one, which shows what is missing."""
    generator = torch.Generator().manual_seed(3)
    random = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
    direction = random / random.norm()
    if bool(grad.any()):
        direction = direction + grad / grad.norm()
    return _along(subject, parameter, grad, direction / direction.norm(), loss)


def _along(subject: Subject, parameter: nn.Parameter, grad: Tensor, direction: Tensor, loss: float) -> float:
    """With the longer step, and where that is not it, with the shorter one: the smaller error of both."""
    said, errors = float((grad * direction).sum()), []
    for share in STEPS:
        step = share * max(float(parameter.detach().norm()), 1e-2)
        slope = _slope(subject, parameter, direction, step)
        scale = max(float(grad.norm()), abs(slope), LAST_PLACE * max(1.0, loss) / step)
        errors.append(abs(slope - said) / scale)
        if errors[-1] <= BOUND:
            break
    return min(errors)


@torch.no_grad()
def _slope(subject: Subject, parameter: nn.Parameter, direction: Tensor, step: float) -> float:
    before, losses = parameter.detach().clone(), []
    try:
        for way in (step, -step):
            parameter.copy_(before + way * direction)
            losses.append(float(_loss(subject)))
    finally:
        parameter.copy_(before)
    return (losses[0] - losses[1]) / (2 * step)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"

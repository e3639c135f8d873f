"""Which target is scored where and with which weight: read from the gradient of the loss, where it cannot lie."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dstrain.doctor.finding import Finding, relative
from dstrain.doctor.model_proofs.diagnosis import diagnosed
from dstrain.doctor.model_proofs.law import doubles, expected_loss
from dstrain.doctor.model_proofs.probes import nowhere_zero, pass_through
from dstrain.doctor.subject import Subject

CLAIM = "each target is scored once, where it belongs, with the weight of the loss law: gradient and loss in float64"
BOUND = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 1e-1}
WHY = "logits and softmax are rounded to the model's own precision"


def prove(subject: Subject) -> Finding:
    with nowhere_zero(subject.module):
        training = judged(subject, training=True)
        if not training.passed:
            return training
        in_eval = judged(subject, training=False)
        if not in_eval.passed and subject.smoothing:
            plain = judged(replace(subject, smoothing=0.0), training=False)  # as many evaluate
            in_eval = plain if plain.passed else in_eval
    if in_eval.passed:
        return replace(training, figure=f"{training.figure}; in eval mode: {in_eval.figure}")
    return replace(in_eval, figure=f"in eval mode: {in_eval.figure}",
                   cause=f"right in training mode, but in eval mode {in_eval.cause}")


def judged(subject: Subject, training: bool) -> Finding:
    """In one mode."""
    seen = pass_through(subject, training=training)
    if not seen.loss.requires_grad:
        return Finding(False, "the loss has no gradient", "one that is the law's", "a detached loss, or no loss at all",
                       "let the loss be the graph's own end")
    found = torch.autograd.grad(seen.loss, seen.features, allow_unused=True)
    features = doubles(seen.features)
    law = expected_loss(subject, features)
    expected = torch.autograd.grad(law, features)
    unused = [head + 1 for head, one in enumerate(found) if one is None]
    found = tuple(torch.zeros_like(two) if one is None else one.double() for one, two in zip(found, expected))
    off = [_difference(one, two) for one, two in zip(found, expected, strict=True)]
    loss = float(seen.predicted.detach())
    number = relative(loss, float(law.detach()))
    bound = BOUND[seen.features[0].dtype]
    figure = f"gradient off by {max(off):.1e} of its largest, loss {loss:.4f} by {number:.1e}"
    tolerance = f"at most {bound:.0e}: {WHY}"
    if max(off) <= bound and number <= bound:
        return Finding(True, figure, tolerance)
    if len(unused) == len(off):
        causes = ["the loss does not depend on what was shown as its logits"]
        remedy = "show the logits that it is made of"
    elif max(off) <= bound:
        further = loss - float(law.detach())
        causes = [f"the gradient is right, but the number is {further:+.4f} off the law's "
                  f"{float(law.detach()):.4f}: a further term in it (a balance of experts), or what is shown is "
                  "not what is optimized"]
        remedy = "show further terms beside the loss, not in it"
    else:
        causes, remedy = diagnosed(subject, seen.features, found, expected)
    return Finding(False, figure, tolerance, "; ".join(causes), remedy)


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest number; infinite where anything is not finite."""
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    scale = float(expected.abs().max())
    difference = float((found - expected).abs().max())
    return difference / scale if scale else (float("inf") if difference else 0.0)

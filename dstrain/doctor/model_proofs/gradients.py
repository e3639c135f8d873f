"""Every trainable parameter learns: a finite gradient that is not all zero, and numbers that an update can move."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from dstrain.doctor.finding import Finding
from dstrain.doctor.model_proofs.probes import (beyond, embeddings_of, nowhere_zero, other_tokens, pass_through,
                                                tokens_of, untouched)
from dstrain.doctor.subject import Subject, TensorDict

CLAIM = "every parameter gets a finite gradient that is not all zero, and can be moved; frozen and unused are named"
UPDATE = 1e-3
"""the step that AdamW takes at a usual peak lr, at most"""
ROUNDING = 1e-4
"""share of a gradient up to which what is predicted has no part in it: 3e-6 was measured where it has none, 0.9 to 1
where it has one"""
OTHER_TOKENS = 8
"""more passes at most, with other tokens, before a parameter counts as all zero: an expert may be chosen by none"""

STEPS_FROM_ZERO = 4
"""how many zeros may stand behind each other, such as a head at zero before gates at zero"""


def prove(subject: Subject, idle: Iterable[Subject] = ()) -> Finding:
    """`idle`: the same where heads have no weight or no token is there. Nothing has to learn there, but all has to take
    part: ZeRO-3 gives what does not the gradient of the step before, and ranks wait for each other."""
    named = dict(subject.module.named_parameters())
    meant = [name for name in named if any(fnmatchcase(name, pattern) for pattern in subject.frozen)]
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    faults: dict[str, list[str]] = {"frozen": [name for name in named if name not in trained and name not in meant]}
    with untouched(subject.module), embeddings_of(tokens_of(subject)) as caught:
        reached, used, not_finite = _gradients(subject, subject.batch, trained)
    moved: set[str] = set()
    for _ in range(STEPS_FROM_ZERO):  # what starts at zero and has a gradient leaves zero with the first step
        zero = {name for name in reached if not bool(trained[name].detach().any())}
        if len(reached) == len(trained) or zero == moved:
            break
        moved = zero
        with nowhere_zero(subject.module, moved):
            reached = reached | _gradients(subject, subject.batch, trained)[0]
    for seed in range(OTHER_TOKENS):
        if len(reached) == len(trained):
            break
        others = {name: other_tokens(ids, seed) for name, ids in tokens_of(subject).items()}
        with nowhere_zero(subject.module, moved):
            more_reached, more_used, _ = _gradients(subject, {**subject.batch, **others}, trained)
        reached, used = reached | more_reached, used | more_used
    faults["unused"] = list(dict.fromkeys([*(name for name in trained if name not in used),
                                           *(name for other in idle for name in _unused(other))]))
    faults["not finite"] = [name for name in trained if name in not_finite]
    faults["all zero"] = [name for name in trained if name in used and name not in reached]
    faults["too large for their 16 bits to move"] = [name for name, parameter in trained.items() if _stands(parameter)]
    tokens = _untrained_tokens(subject, caught.padding_ids)
    named_faults = {kind: names for kind, names in faults.items() if names}
    figure = ", ".join([f"{len(named)} parameters", *(f"{len(names)} {kind}: {_listed(names)}"
                                                      for kind, names in named_faults.items()), *tokens])
    figure += f", {len(meant)} frozen as meant" if meant else ""
    tolerance = "each trainable one finite and not all zero; frozen only what is meant to be"
    if not named_faults and not tokens and named:
        return Finding(True, figure, tolerance)
    return Finding(False, figure, tolerance, *_cause(named_faults, tokens))


def _gradients(subject: Subject, batch: TensorDict, trained: dict[str, Tensor]) -> tuple[set[str], set[str], set[str]]:
    """Names of the parameters with a gradient that is not all zero, with any at all, with one that is not finite.

    What is predicted has to reach each of them, by more than rounding: a term that keeps experts busy teaches a router
    nothing else.
    """
    seen = pass_through(subject, batch)
    if not trained or not seen.predicted.requires_grad:
        return set(), set(), set()
    found = _found(seen.predicted, trained)
    with_further = found if seen.further is None else _found(pass_through(subject, batch).loss, trained)
    taught = {name for name, grad in found.items()
              if float(grad.norm()) > ROUNDING * float(with_further[name].norm())}
    return (taught, set(with_further),
            {name for name, grad in with_further.items() if not bool(torch.isfinite(grad).all())})


def _unused(subject: Subject) -> list[str]:
    """Names of the parameters without any gradient, were it all zero."""
    trained = {name: parameter for name, parameter in subject.module.named_parameters() if parameter.requires_grad}
    with untouched(subject.module):
        loss = pass_through(subject).loss
        found = _found(loss, trained) if loss.requires_grad else {}
    return [name for name in trained if name not in found]


def _found(loss: Tensor, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {name: grad for name, grad in zip(trained, grads, strict=True) if grad is not None}


def _cause(faults: dict[str, list[str]], tokens: list[str]) -> tuple[str, str]:
    reasons = {
        "frozen": ("requires_grad was lost, such as by a weight that was copied or loaded under no_grad",
                   "set requires_grad_(True) when the weights are in place, or say that they are meant to be frozen"),
        "unused": ("built, and never used on the way to the loss: a branch, a norm or a head that is left out",
                   "use them, or leave them out of the model: ZeRO-3 gives an unused one the last step's gradient"),
        "not finite": ("a division by zero or an overflow on the way back, such as a row in which all is masked",
                       "look for the first one with torch.autograd.set_detect_anomaly(True)"),
        "all zero": ("cut off by a detach, a gate that stays at zero, dead units, an expert that no token chooses, or "
                     "a router whose gates are constant (one expert's, scaled to sum 1)",
                     "look at what stands between them and the predictions"),
        "too large for their 16 bits to move": (f"a step of {UPDATE} is less than half a unit in the last place of all "
                                                "their numbers: they stand still unless the optimizer keeps float32",
                                                "keep float32 weights (autocast), or float32 master weights as "
                                                "DeepSpeed's bf16 does, and prove the float32 module")}
    if faults:
        kind = next(iter(faults))
        return reasons[kind]
    return ("an embedding's padding_idx is the id of real tokens: what they become is never trained",
            "leave padding_idx out: padding is told by lengths") if tokens else ("there are no parameters", "")


def _stands(parameter: Tensor) -> bool:
    """Whether a usual update is lost in every number of a 16-bit parameter."""
    if parameter.dtype not in (torch.bfloat16, torch.float16) or not parameter.numel():
        return False
    moved = parameter.detach() - torch.tensor(UPDATE, dtype=torch.float64).to(parameter.dtype)
    return bool((moved == parameter.detach()).all())


def _untrained_tokens(subject: Subject, padding_ids: dict[str, set[int]]) -> list[str]:
    found = []
    for name, ids in padding_ids.items():
        tokens = subject.batch[name]
        lengths_B = subject.lengths_B if name == subject.roles.ids else subject.source_lengths_B
        real = tokens[~beyond(lengths_B, tokens.shape[1])]
        found += [f"{int((real == one).sum()):,} real tokens of {name} have the id {one}, which its embedding does not "
                  "train" for one in sorted(ids) if bool((real == one).any())]
    return found


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

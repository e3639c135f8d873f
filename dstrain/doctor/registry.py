"""All proofs of `dstrain doctor`, in the order in which they run: cheap first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding
from dstrain.doctor.model_proofs import (
    arguments, by_heart, derivative, first_loss, future, gradients, neighbours, padding, targets)
from dstrain.doctor.on_device import on
from dstrain.doctor.proofs import (
    chance, continuations, curve, documents, gradient, labels, logged, loop, mode, overlap,
    rebuild, resume, same_curve, schedule, update)

At = Literal["data", "shrunk", "full"]
"""on what a proof is given: the data alone, the recipe in small, the recipe at its full size"""


@dataclass(frozen=True)
class Proof:
    name: str
    claim: str
    at: At
    prove: Callable[[Case], Finding]
    """Raises NotProven where the claim cannot be tried"""
    on_device: bool
    """whether it runs on the case's device; otherwise on this process's CPU alone"""


def _of_the_recipe(name: str, module: ModuleType, at: At = "shrunk", on_device: bool = True) -> Proof:
    """A proof by the production path: module.prove(case)."""
    return Proof(name, module.CLAIM, at, module.prove, on_device)


def _of_the_model(name: str, module: ModuleType, at: At = "shrunk") -> Proof:
    """A proof on the model and one batch: module.prove(subject)."""
    def prove(case: Case) -> Finding:
        return module.prove(on(case.device, case.full_subject() if at == "full" else case.subject()))

    return Proof(name, module.CLAIM, at, prove, on_device=True)


def _future(case: Case) -> Finding:
    """In small, and once on a row as long as the recipe's own."""
    longer = case.long_subject()
    return future.prove(on(case.device, case.subject()), None if longer is None else on(case.device, longer))


def _gradients(case: Case) -> Finding:
    """At full size; and where only the first head counts, and in a micro-batch of rows without tokens."""
    idle = [on(case.device, subject) for subject in case.idle_subjects()]
    return gradients.prove(on(case.device, case.full_subject()), idle)


_ALL = (
    _of_the_recipe("labels", labels, at="data", on_device=False),
    _of_the_recipe("overlap", overlap, at="data", on_device=False),
    _of_the_model("arguments", arguments),
    Proof("future", future.CLAIM, "shrunk", _future, on_device=True),
    _of_the_model("padding", padding),
    _of_the_model("neighbours", neighbours),
    _of_the_recipe("documents", documents),
    _of_the_model("targets", targets),
    _of_the_model("first_loss", first_loss, at="full"),
    Proof("gradients", gradients.CLAIM, "full", _gradients, on_device=True),
    _of_the_model("derivative", derivative),
    _of_the_model("by_heart", by_heart),
    _of_the_recipe("continuations", continuations, on_device=False),
    _of_the_recipe("mode", mode),
    _of_the_recipe("chance", chance),
    _of_the_recipe("curve", curve, at="full"),
    _of_the_recipe("gradient", gradient),
    _of_the_recipe("update", update),
    _of_the_recipe("schedule", schedule),
    _of_the_recipe("loop", loop),
    _of_the_recipe("logged", logged),
    _of_the_recipe("rebuild", rebuild),
    _of_the_recipe("same_curve", same_curve),
    _of_the_recipe("resume", resume),
)

PROOFS: dict[str, Proof] = {proof.name: proof for proof in _ALL}

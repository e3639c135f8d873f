"""Plants a fault into the production code of this process and of a case's live ranks, and always pulls it out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dstrain.config.schema import Recipe
from dstrain.doctor.case import Case
from dstrain.doctor.examined import examined
from dstrain.doctor.faults.fault import Fault
from dstrain.doctor.finding import Finding, NotProven
from dstrain.runtime.dist import Ranks
from dstrain.runtime.rank_group import RankGroup

Plant = Callable[[], None]
"""puts its wrong code in place with `put`; a function of a module, so that ranks can be told its name"""
_ABSENT = object()
_undo: list[tuple[Any, str, Any]] = []


class Needs(NamedTuple):
    """What a recipe must have for a fault to be planted in it."""

    what: str
    there: Callable[[Recipe], bool]


def fault(name: str, looked: str, proof: str, plant: Plant, role: str | None = None,
          needs: Needs | None = None) -> Fault:
    """`role`: which of a batch's inputs it takes, such as "segments"; without it, and without what it `needs` of the
    recipe, there is nothing to plant it in."""
    return Fault(name, looked, proof, lambda case: attempt(case, plant, proof, role, needs))


def attempt(case: Case, plant: Plant, proof: str, role: str | None = None, needs: Needs | None = None) -> Finding:
    """What that proof finds with the fault in place. One that breaks because of it has not let it pass."""
    if role is not None and not case.family.anatomy.roles(case.recipe).get(role):
        raise NotProven(f"the family {case.family.name} has no {role}")
    if needs is not None and not needs.there(case.recipe):
        raise NotProven(f"the family {case.family.name} has, in this recipe, no {needs.what}")
    with planted(case, plant):
        return judged_by(proof, case)


def judged_by(proof: str, case: Case) -> Finding:
    from dstrain.doctor.registry import PROOFS
    entry = PROOFS[proof]
    found = examined(proof, entry.claim, entry.at, lambda: entry.prove(case))
    if found.finding is None:
        raise NotProven(found.why_not)
    return found.finding


@contextmanager
def planted(case: Case, plant: Plant) -> Iterator[None]:
    """Inside, it is in this process and in all ranks of the case, those that start only now included."""
    inner, told = case.ranks, []

    def ranks(world: int) -> RankGroup:
        group = inner(world)
        if group not in told:
            told.append(group)
            group.run(_there, plant)
        return group

    case.ranks = ranks
    try:
        plant()
        yield
    finally:
        del case.ranks  # the class's own shows again
        pull()
        for group in case.groups.values():
            if group.alive and group in told:
                group.run(_pull_there)


def put(owner: Any, name: str, value: Any) -> None:
    """In the place of what a module or a class has under that name, until it is pulled out."""
    _undo.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, value)


def pull() -> None:
    while _undo:
        owner, name, original = _undo.pop()
        if original is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


def _there(ranks: Ranks, plant: Plant) -> None:
    plant()


def _pull_there(ranks: Ranks) -> None:
    pull()

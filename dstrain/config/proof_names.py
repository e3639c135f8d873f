"""Which proofs a whole certificate has, for machines without torch; a test holds it to the registry."""

from __future__ import annotations

from collections.abc import Callable

from dstrain.config.schema import Recipe

PROOF_NAMES = (
    "labels", "overlap", "arguments", "future", "padding", "neighbours", "documents", "targets", "first_loss",
    "gradients", "derivative", "by_heart", "continuations", "mode", "chance", "curve", "gradient", "update", "schedule",
    "loop", "logged", "rebuild", "same_curve", "resume",
)
"""in the order in which they run"""

# Only what there is nothing of: too little memory or time leaves a claim open, and somebody else's machine can try it.
_INAPPLICABLE: dict[str, Callable[[Recipe], bool]] = {
    "overlap": lambda recipe: not recipe.data.valid,  # no evaluation text
    "documents": lambda recipe: recipe.family in ("translate", "arc"),  # a row is one pair, or one puzzle
    "chance": lambda recipe: recipe.model.code is not None,  # a class of one's own that drops nothing
    "continuations": lambda recipe: True,  # texts too short to be continued, a class that cannot generate
}


def may_stay_open(name: str, recipe: Recipe) -> bool:
    """Whether `not proven` may stand there because this recipe's family, data or class has nothing to prove it on."""
    return name in _INAPPLICABLE and _INAPPLICABLE[name](recipe)

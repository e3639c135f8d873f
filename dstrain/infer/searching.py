"""How a translation is searched: the options, and the score that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dstrain.config.errors import UserError


@dataclass(frozen=True)
class Searching:
    """How it is searched."""

    beam: int = 5
    """hypotheses kept at each step; 1: the best token each time"""
    length_penalty: float = 1.0
    """the exponent of the score's divisor: 0 favours short translations, larger ones longer"""

    def check(self) -> None:
        if self.beam < 1:
            raise UserError(f"beam is {self.beam}, but must be at least 1 (1: the best token each time)")
        if not 0.0 <= self.length_penalty < math.inf:
            raise UserError(f"length_penalty is {self.length_penalty}, but must be a number of at least 0")
        if self.beam == 1 and self.length_penalty != Searching.length_penalty:
            raise UserError(f"length_penalty is {self.length_penalty}, but with a beam of 1 there is nothing to choose "
                            "between, so it has no effect: remove it, or set a beam such as 5")

    def divisor(self, length: Any) -> Any:
        return ((5.0 + length) / 6.0) ** self.length_penalty

"""What a family has TensorBoard show of its model while it trains: numbers, how values spread, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dstrain.train.picture import Drawn, Picture


class Shown(NamedTuple):
    """Each by its tag."""

    scalars: dict[str, float]
    spreads: dict[str, Sequence[float]]
    pictures: dict[str, Picture | Drawn]

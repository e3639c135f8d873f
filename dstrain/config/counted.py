"""What batches have in common whose size is told in positions, not in rows."""

from __future__ import annotations

from collections.abc import Callable

from dstrain.config.errors import UserError


class CountedInTokens:
    """A batch of rows of many lengths: as many of them as its positions allow."""

    tokens: int
    micro_tokens: int
    window: int
    length: int


def check_counted(batch: CountedInTokens, one: str, place_of: Callable[[str], str]) -> None:
    """`one`: what of a row may have so many positions, in words."""
    for key in ("tokens", "micro_tokens"):
        if getattr(batch, key) < batch.length:
            raise UserError(f"{place_of(f'batch.{key}')}: batch.{key} is {getattr(batch, key)}, but {one}; "
                            f"raise it, or set a smaller batch.length")
    if batch.micro_tokens > batch.tokens:
        raise UserError(f"{place_of('batch.micro_tokens')}: batch.micro_tokens is {batch.micro_tokens}, more than "
                        f"batch.tokens {batch.tokens} of a whole step; make it equal or smaller")

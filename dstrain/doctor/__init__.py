"""The proofs: what training must obey, shown on the user's own recipe before a GPU hour is spent."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`from dstrain.doctor import prove`, for anyone's own module: torch is imported by those who ask for it only."""
    if name != "prove":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dstrain.doctor.library import prove
    return prove

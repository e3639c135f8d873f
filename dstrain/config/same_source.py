"""Whether a source is the one that shards were made from, by the words of the recipe: a login node asks, too."""

from __future__ import annotations

from typing import Any

from dstrain.config.hints import shown
from dstrain.config.schema import Source


def difference_in_words(kept: dict[str, Any], source: Source, place: str) -> str | None:
    """What the recipe says otherwise of the source, but for where it lies: '... is 1, but was 2'."""
    for name, was in kept["source"].items():
        now = getattr(source, name)
        moved = name in ("path", "hub") and now is not None and was is not None
        pinned = name == "revision" and now in (None, kept["commit"])
        if now != was and not moved and not pinned:
            return f"{place}.{name} is {shown(now)}, but was {shown(was)}"
    return None

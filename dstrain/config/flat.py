"""A recipe as dotted keys with plain values: what is compared when two recipes are."""

from __future__ import annotations

from typing import Any


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1, 2]}} -> {"a.b.0": 1, "a.b.1": 2}"""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix: value}
    return {key: leaf for name, part in items
            for key, leaf in flat(part, f"{prefix}.{name}" if prefix else str(name)).items()}

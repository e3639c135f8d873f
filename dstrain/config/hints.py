"""How error messages show a value and point to the nearest known name: always short, always one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_SHOWN = 80


def shown(value: Any) -> str:
    """The value as a user would recognize it, on one line, cut when it is long."""
    text = "empty (null)" if value is None else repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 4] + " ..."


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'length'?`, or, when nothing is near, what there is."""
    known = list(known)
    if len(word) <= LONGEST_SHOWN:
        by_lower_case = {name.lower(): name for name in known}
        near = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
        if near:
            return f"did you mean {by_lower_case[near[0]]!r}?"
    return f"known here: {', '.join(sorted(known))}"


def one_line(text: object) -> str:
    return " ".join(str(text).split())

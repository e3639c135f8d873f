"""What a model wrote, shown on a terminal."""

from __future__ import annotations

import sys

_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def for_reader(text: str) -> str:
    """A model may write what moves a terminal's cursor or changes its state: there it is shown as an odd character."""
    return text.translate(_CONTROL) if sys.stdout.isatty() else text

"""A continuation's text as its tokens come: what is certain is shown, a stop string ends it and is cut off.

Certain is a text without half characters and without a beginning of a stop string at its end. What a token's bytes mean
may depend on the next token; how the text is cut into tokens never matters: the same text stops at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF = "\N{REPLACEMENT CHARACTER}"


class Writer:
    """One prompt's continuation. A stop string counts only inside it, not in the prompt, and not across its start."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], show: Callable[[str], None]):
        self.text = ""
        """whole characters so far, cut at the stop string; half ones come with `finish`"""
        self.stopped = False
        self._decode, self._stops, self._show = decode, stops, show
        self._ids: list[int] = []       # the last tokens, as many as are needed to know a character that they share
        self._before = ""               # the text of all tokens before these
        self._shown = 0                 # characters

    def add(self, token: int) -> None:
        self._ids.append(token)
        text = self._before + self._decode(self._ids)
        if text.endswith(_HALF):        # the next token may complete it, and this time it is not one
            self._grow(text[:-1], self._held(text[:-1]))
            return
        self._before, self._ids = text, []
        self._grow(text, self._held(text))

    def finish(self) -> None:
        """No more tokens: what was held back is text after all."""
        if not self.stopped:
            self._grow(self._before + self._decode(self._ids), 0)

    def _grow(self, text: str, held: int) -> None:
        stop = first_stop(text, self._stops, len(self.text))
        self.stopped = stop is not None
        self.text = text if stop is None else text[:stop[0]]
        until = len(self.text) - (0 if self.stopped else held)
        if until > self._shown:
            self._show(self.text[self._shown:until])
            self._shown = until

    def _held(self, text: str) -> int:
        """Characters at the end that may become a stop string."""
        return max((size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
                   default=0)


def first_stop(text: str, stops: Sequence[str], known: int = 0) -> tuple[int, int] | None:
    """Start and end of the stop string that is complete first, of those that end there the longest.

    `known`: so many first characters have been searched already.
    """
    found = [(start + len(stop), start) for stop in stops
             if (start := text.find(stop, max(0, known - len(stop) + 1))) >= 0]
    if not found:
        return None
    end, start = min(found)
    return start, end


def tokens_to(text: str, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """How many of the tokens it takes to spell `text`, which their text starts with: no token after a stop counts."""
    count = len(ids)
    while count > 0 and decode(ids[:count - 1]).startswith(text):
        count -= 1
    return count

"""A document as text, and the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Text:
    """One numbered document as text, or one piece of a long one."""

    text: str
    ends: bool = True
    """False: a piece after which its document goes on"""
    cut_line_ends: int = 0
    """line ends that separate documents and so are in none of them; the word count still counts them"""

    def words(self) -> int:
        """Whitespace-separated words, and one per line end: WikiText's count."""
        return len(self.text.split()) + self.text.count("\n") + self.cut_line_ends


class Malformed(Exception):
    """A line or row that holds no document: says why."""


Raw = Union[bytes, str, Text, Malformed]
"""a document as its file gives it, before anybody has asked for its text: `Corpus.text_of` makes that of it"""

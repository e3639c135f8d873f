"""A rank's sign of life: which step it is in, what it is doing, since when."""

from __future__ import annotations


class Pulse:
    """Says nothing to anybody: what a rank has that nobody watches."""

    step = 0
    """optimizer steps done"""
    slowest_step_s = 0.0
    """of the recent ones"""

    def enter(self, phase: str, detail: str = "") -> None:
        """What is being done from now on: start, data, step, validation, saving or leaving; `detail` for people."""

    def stepped(self, step: int) -> None:
        """An optimizer step has ended."""

    def ended(self, cause: str, words: str) -> None:
        """Why this rank ends; the first cause counts."""

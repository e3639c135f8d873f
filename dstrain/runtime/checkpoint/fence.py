"""Which start of a run publishes: one that has been replaced by a later start publishes nothing more.

Whatever is published is made under a name of this start's own, then `check` looks whether the run folder is still this
start's, then it is renamed. A later start writes into the folder that it is its own by now, and removes after that what
other starts were making. So a start that is replaced, wherever it was stopped and continued, either has made its
piece before that, and the rename finds nothing, or makes it afterwards, and the check refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Fence:
    """Without a lock (a run beside which there can be no other) it stops nobody."""

    start: str = ""
    """this start's own: part of the names of what it makes"""
    check: Callable[[], None] = lambda: None
    """raises Trouble where the run folder is another start's by now"""

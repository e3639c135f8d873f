"""Why a rank ends, told by the type of what ended it; by its words only where a library gives no type."""

from __future__ import annotations

import contextlib
import errno
import traceback
from pathlib import Path
from typing import Iterator

from dstrain.config.errors import FailedElsewhere, Left, LostRank, SaidElsewhere, Trouble, TroubleElsewhere, UserError
from dstrain.guard.pulse import Pulse

FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT, errno.EACCES, errno.EMFILE, errno.ENFILE)
CONSEQUENCES = ("lost a rank", "elsewhere")
"""another rank is the reason"""
READS_ROWS = ("opening the data", "reading the first step's rows", "opening the validation data",
              "looking up the data's revision", "reading the rows", "reading the validation data")
"""how details of a phase begin in which only data are read"""
WANTS_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory", "std::bad_alloc", "alloc_failed")
"""what allocators, CUDA and its libraries say in a RuntimeError"""


def cause_of(error: BaseException | None, phase: str, detail: str = "") -> tuple[str, str]:
    """(cause, words) for the black box; None: nothing went wrong."""
    if error is None:
        return "finished", "the run is at its end"
    words = _in_a_line(error)
    if isinstance(error, Left):
        return "left", words
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "Ctrl-C"
    if isinstance(error, LostRank):
        return "lost a rank", words
    if isinstance(error, (SaidElsewhere, TroubleElsewhere, FailedElsewhere)):
        return "elsewhere", words
    if any(map(_wants_memory, _chain(error))):
        return "out of memory", words
    numbers = [cause.errno for cause in _chain(error) if isinstance(cause, OSError)]
    if any(number in FULL for number in numbers):
        return "disk full", words
    if phase == "data" or detail.startswith(READS_ROWS):
        return "data error", words
    if any(number in BROKEN for number in numbers):
        return "disk trouble", words
    if isinstance(error, UserError):
        return "mistake", words
    return ("trouble", words) if isinstance(error, Trouble) else ("error", words + _where(error))


@contextlib.contextmanager
def saying_why(pulse: Pulse) -> Iterator[None]:
    """However this is left, the black box is told why. What was said before by who knew better, stands."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        pulse.ended(*cause_of(error, pulse.phase, pulse.detail))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__


def _wants_memory(error: BaseException) -> bool:
    """torch's own classes by name: nothing here imports torch."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemory"):
        return True
    return (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in WANTS_MEMORY)
            or isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    speaks_plainly = isinstance(error, (UserError, Trouble, Left, LostRank))
    return text if speaks_plainly else f"{type(error).__name__}: {text}" if text else type(error).__name__


def _where(error: BaseException) -> str:
    """The line that raised it: its traceback is in an output that may be gone."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    return f" ({'/'.join(Path(frames[-1].filename).parts[-3:])}, line {frames[-1].lineno})"

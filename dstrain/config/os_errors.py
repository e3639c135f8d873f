"""An error of the operating system in one line: what could not be done, where, why, whose it is and what to do.

A place that the user has chosen and that cannot hold what it should is a mistake (2). All else, such as a disk that is
full, or a permission that is lost in mid-run, is Trouble (1).
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Iterator

from dstrain.config.errors import Trouble, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
_MISTAKES = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_NOT_OF_THE_PLACE = (errno.EMFILE, errno.ENFILE)
_GOES_ON = "the same command then goes on from the last committed checkpoint, or else from the start"
_REMEDIES = {
    **dict.fromkeys(FULL, f"make room: {_GOES_ON}"),
    errno.EROFS: f"see why it is read-only (the system makes a broken disk so), and make it writable: {_GOES_ON}",
    **dict.fromkeys((errno.ENOENT, errno.ESTALE), f"it was removed or moved in the meantime; put it back: {_GOES_ON}"),
    **dict.fromkeys(_MISTAKES, f"see to the folder and its permissions: {_GOES_ON}"),
    **dict.fromkeys(_NOT_OF_THE_PLACE, f"allow more open files (ulimit -n 4096): {_GOES_ON}"),
}
_PLAINER = {errno.EEXIST: "a file, or a link that leads nowhere, stands in the place of a folder"}
_MOST_CHARACTERS = 300


@contextlib.contextmanager
def in_words(what: str, place: Path, choice: str = "") -> Iterator[None]:
    """An OSError inside becomes one line: "cannot `what` `place`: ..."; `choice`: how the user chooses that place."""
    try:
        yield
    except OSError as error:
        raise in_one_line(error, what, place, choice) from error


def in_one_line(error: OSError, what: str, place: Path | str = "", choice: str = "") -> UserError | Trouble:
    name = error.filename
    within = f" ({_short(name)})" if name is not None and str(name) != str(place) else ""
    why = _PLAINER.get(error.errno, error.strerror or str(error))
    words = f"cannot {what}{f' {_short(place)}' if str(place) else ''}: {why}{within}"
    if choice and error.errno in _MISTAKES:
        return UserError(f"{words}; choose another place with {choice}")
    elsewhere = f"; or choose another place with {choice}" if choice and error.errno not in _NOT_OF_THE_PLACE else ""
    return Trouble(f"{words}; {remedy(error)}{elsewhere}")


def remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno, f"see to the disk: {_GOES_ON}")


def _short(path: Path | str | bytes) -> str:
    text = os.fsdecode(path)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:80]} ... {text[-80:]}"

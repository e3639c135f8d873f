"""An error of the operating system in one line: what could not be done, where, why, whose it is and what to do.

A place that the user has chosen and that cannot hold what it should is a mistake (2). All else, such as a disk that is
full, or a permission that is lost in mid-run, is Trouble (1).
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Iterator

from dstrain.config.errors import Trouble, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
_MISTAKES = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_GOES_ON = "the same command then goes on from the last committed checkpoint, or else from the start"
_REMEDIES = {
    **dict.fromkeys(FULL, f"make room: {_GOES_ON}"),
    errno.EROFS: f"see why it is read-only (the system makes a broken disk so), and make it writable: {_GOES_ON}",
    **dict.fromkeys((errno.ENOENT, errno.ESTALE), f"it was removed or moved in the meantime; put it back: {_GOES_ON}"),
    **dict.fromkeys(_MISTAKES, f"see to the folder and its permissions: {_GOES_ON}"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), f"allow more open files (ulimit -n 4096): {_GOES_ON}"),
}


@contextlib.contextmanager
def in_words(what: str, place: Path, choice: str = "") -> Iterator[None]:
    """An OSError inside becomes one line: "cannot `what` `place`: ..."; `choice`: how the user chooses that place."""
    try:
        yield
    except OSError as error:
        raise in_one_line(error, what, place, choice) from error


def in_one_line(error: OSError, what: str, place: Path | str = "", choice: str = "") -> UserError | Trouble:
    name = error.filename
    within = f" ({name})" if name is not None and str(name) != str(place) else ""
    words = f"cannot {what}{f' {place}' if str(place) else ''}: {error.strerror or error}{within}"
    if choice and error.errno in _MISTAKES:
        return UserError(f"{words}; choose another place with {choice}")
    return Trouble(f"{words}; {remedy(error)}{f'; or choose another place with {choice}' if choice else ''}")


def remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno, f"see to the disk: {_GOES_ON}")

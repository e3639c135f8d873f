"""Where the doctor writes: the run folder, looked at before any proof, and the folder for temporary files."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import traceback
from pathlib import Path

from dstrain.config.certificate import FILE
from dstrain.config.errors import UserError

OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
"""what no model, data or proof is at fault for"""
A_CERTIFICATE = b"\0" * 100_000
_NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)


def check_writable(folder: Path) -> None:
    """A UserError where no certificate could be written into the run folder. Leaves nothing there."""
    made: list[Path] = []
    try:
        made += [path for path in (folder, *folder.parents) if not os.path.lexists(path)]  # innermost first
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / FILE).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / FILE))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(A_CERTIFICATE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _mistake(error, f"write the certificate into {folder}", "run.dir=...") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not made after all, or in use by now
                path.rmdir()


def refuse_place(error: BaseException) -> None:
    """A UserError where a disk, or the limit of open files, is what broke: in this process or in a rank, whose error
    comes as its traceback's text."""
    text = "".join(traceback.format_exception(error))
    numbers = {int(number) for found in _NUMBER.findall(text) for number in found if number}
    of_the_place = next((number for number in OF_THE_PLACE if number in numbers or os.strerror(number) in text), None)
    if of_the_place is None:
        return
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    name = cause.filename if isinstance(cause, OSError) else None
    found = OSError(of_the_place, os.strerror(of_the_place), name)
    raise _mistake(found, f"work in {tempfile.gettempdir()}", "TMPDIR") from error


def _mistake(error: OSError, what: str, choice: str) -> UserError:
    within = f" ({error.filename})" if error.filename is not None and str(error.filename) not in what else ""
    elsewhere = f", or choose another place with {choice}"
    if error.errno in _TOO_MANY_OPEN:
        remedy = "allow more open files (ulimit -n 4096)"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"make room{elsewhere}"
    else:
        remedy = f"see to the folder and its permissions{elsewhere}"
    return UserError(f"cannot {what}: {error.strerror or error}{within}, and no certificate was written; {remedy}")

"""What a training says must not end it: a terminal that was closed, a reader that has left (as with `| head`).

A terminal that is gone answers every write with an error, also where the training was told to go on without it.
"""

from __future__ import annotations

import errno
import io
import os
import sys

NOBODY_READS = (errno.EIO, errno.EPIPE)


def speak_on() -> None:
    """From now on what is printed for nobody is dropped. Files that fail otherwise, as on a full disk, still do."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):  # else somebody else's, as a test's
            stream.flush()
            setattr(sys, name, _patient(stream))


def _patient(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same, over a file that bears that its reader leaves."""
    return io.TextIOWrapper(_Patient(stream.fileno()), encoding=stream.encoding, errors=stream.errors,
                            line_buffering=stream.line_buffering, write_through=stream.write_through)


class _Patient(io.RawIOBase):
    def __init__(self, number: int):
        self._number = number
        self._leaves = NOBODY_READS if os.isatty(number) else (errno.EPIPE,)
        """of a file, an input/output error is the disk's"""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data) -> int:
        """All of it: the text above keeps nothing back."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._number, rest):]
        except OSError as error:
            if error.errno not in self._leaves:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._number)
            os.close(nowhere)
        return len(data)

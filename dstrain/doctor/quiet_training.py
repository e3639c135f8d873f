"""The trainer prints its steps; in a proof nobody wants to read them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What is printed inside goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield

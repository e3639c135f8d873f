"""What the tests of launchers share."""

from __future__ import annotations

import pytest
from launched import Launched
from small_run import lay_out


@pytest.fixture
def launched(tmp_path):
    """launched(command): nothing of it outlives the test, however that ends."""
    runs: list[Launched] = []

    def launch(*arguments) -> Launched:
        runs.append(Launched(lay_out(tmp_path), *arguments))
        return runs[-1]

    yield launch
    for run in runs:
        run.end()

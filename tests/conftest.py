"""What all tests share: the CPU, one thread a process, and the folder of real data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch or deepspeed is imported anywhere, in this process and in those that it starts.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402  (after the environment is set)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora, beside the repository or in it; tests that want it are skipped without it."""
    for folder in (ROOT.parent / "shared" / "data", ROOT / "shared" / "data"):
        if folder.is_dir():
            return folder
    pytest.skip("no folder shared/data beside the repository: real corpora are not here")

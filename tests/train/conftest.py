"""A run of six steps that is done, trained once for all tests that need one to harm or to read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from forked_commands import command
from small_run import lay_out


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    place = lay_out(tmp_path_factory.mktemp("run"))
    assert command(place, "train", "small.yaml").codes == [0]
    return place


@pytest.fixture
def place(trained, tmp_path) -> Path:
    """A copy of it, to do with as a test likes."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path

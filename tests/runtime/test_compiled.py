"""Where what torch compiled is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from dstrain.runtime.compiled import FOLDER, kept_folder


@pytest.mark.parametrize("said, xdg, folder", [
    (None, None, Path.home() / ".cache/dstrain/compiled"), (None, "/fast", Path("/fast/dstrain/compiled")),
    ("/mine", "/fast", Path("/mine")), (default_cache_dir(), None, Path.home() / ".cache/dstrain/compiled")])
def test_the_users_folder_wins_then_xdgs_then_home_but_never_torchs_own_temporary_one(monkeypatch, said, xdg, folder):
    for name, value in ((FOLDER, said), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert kept_folder() == folder

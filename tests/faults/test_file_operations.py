"""A short set of file_operations.py: one random call of what matters most, and three mutants that must be noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from broken_disk import END, compiler  # noqa: E402  (the folder is not that of a package)
from small_run import environment  # noqa: E402

COMMAND = Path(__file__).resolve().parent / "file_operations.py"
pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: the disk is broken by a library of its own")


KINDS = ("write", "rename", END)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """(exit code, trials by way, what was printed)"""
    file = tmp_path_factory.mktemp("file-operations") / "trials.json"
    done = subprocess.run(
        [sys.executable, COMMAND, "--calls", "1", "--to-the-end", "0", "--kinds", *KINDS, "--ways",
         "beside the training", "DeepSpeed, same tag", "--json", file],
        capture_output=True, text=True, timeout=400, env=environment(), stdin=subprocess.DEVNULL)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    by_way: dict[str, list[dict]] = {}
    for trial in json.loads(file.read_text()):
        by_way.setdefault(trial["way"], []).append(trial)
    return done.returncode, by_way, done.stdout


def test_after_any_fault_of_the_disk_the_newest_committed_checkpoint_is_loaded(short):
    code, trials, out = short
    ours = trials["beside the training"]
    assert code == 0 and len(ours) == 18 and {trial["outcome"] for trial in ours} == {"newest committed"}, out
    assert all(trial["path"] for trial in ours if trial["kind"] != END)  # each met its fault
    assert any(trial["published"] for trial in ours) and not all(trial["published"] for trial in ours)


def test_deepspeed_loses_a_save_that_returned_when_the_power_is_cut(short):
    _, trials, out = short
    at_the_end = {trial["fault"]: trial["outcome"] for trial in trials["DeepSpeed, same tag"] if trial["kind"] == END}
    assert at_the_end == {"none": "newest committed", "power cut": "nothing, an error",
                          "power cut, names too": "nothing, an error"}, out


def test_a_careless_way_of_saving_is_noticed(short):
    _, trials, out = short
    noticed = {way: {trial["fault"] for trial in trials[way] if trial["outcome"] != "newest committed"}
               for way in ("syncs nothing", "reads nothing back", "removes first")}
    assert noticed["reads nothing back"] == {"half, unsaid"}, out
    assert noticed["syncs nothing"] == {"power cut", "power cut, names too"}, out
    assert "killed before" in noticed["removes first"], out

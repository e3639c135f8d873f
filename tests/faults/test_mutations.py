"""A short set of mutations.py: every kind of harm once with stale hashes and once with hashes made to fit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutants import HARMS  # noqa: E402  (the folder is not that of a package)
from mutations import make_checkpoint, run, table  # noqa: E402

from dstrain.runtime.checkpoint.manifest import GUARD  # noqa: E402

KINDS = sum(map(len, HARMS.values()))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run(*make_checkpoint(tmp_path_factory.mktemp("mutations")), 2 * KINDS - len(HARMS[GUARD]), seed=5)


def test_every_harm_is_a_typed_error_that_names_the_file_within_a_second(outcomes):
    assert len(outcomes) == 244 and len({(o.file, o.harm, o.signed) for o in outcomes}) == 244
    assert all(outcome.well for outcome in outcomes), table(outcomes)
    assert sum(outcome.outcome == "refused" for outcome in outcomes) > 200


def test_what_changes_no_meaning_loads_the_very_same_tensors(outcomes):
    harmless = [o for o in outcomes if o.harm.startswith("harmless")]
    assert [o.outcome for o in harmless if o.signed] == ["same"] * 8  # order and metadata of two files; five others
    assert {o.outcome for o in harmless if not o.signed} == {"refused"}  # the hashes see it all the same

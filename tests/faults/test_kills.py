"""A short set of kills, the same for every change; the whole one is `python tests/faults/kills.py`."""

from __future__ import annotations

import pytest
from kills import run_kills

pytestmark = pytest.mark.ranks


def test_killed_at_random_moments_until_finished_it_is_the_run_never_killed():
    tallies = run_kills(4, seed=1, cases=[(2, 4, "all"), (3, 1, "one")])
    assert len(tallies) == 2 and sum(tally.kills for tally in tallies.values()) >= 4
    for tally in tallies.values():
        assert tally.differences == [] and tally.compared > 60 * tally.chains
        assert tally.slowest_other_s < 30

"""Times as Slurm writes them."""

from __future__ import annotations

import pytest

from dstrain.cluster.slurm_time import in_words, seconds_of, slurm_time


@pytest.mark.parametrize("text, seconds", [
    ("30", 1800), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400), ("2-00:00:01", 172801),
    ("UNLIMITED", None), ("infinite", None), ("12h", None), ("", None), ("1:2:3:4", None), ("-5", None)])
def test_every_form_that_sbatch_takes_is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("seconds", [59, 60, 3600, 43200, 86399, 86400, 200000])
def test_what_is_written_is_read_back(seconds):
    assert seconds_of(slurm_time(seconds)) == seconds


@pytest.mark.parametrize("seconds, words", [(5, "5 s"), (119, "119 s"), (120, "2 min"), (7100, "118 min"),
                                            (7200, "2.0 h"), (40000, "11 h"), (172800, "2.0 d"), (1e6, "12 d")])
def test_a_time_is_said_in_two_figures_or_so(seconds, words):
    assert in_words(seconds) == words

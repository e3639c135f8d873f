"""The progress line: waiting for data is said where it is more than a twentieth of the time."""

from __future__ import annotations

import pytest

from dstrain.train.progress import Progress


@pytest.mark.parametrize("share, said", [(0.0, ""), (0.05, ""), (0.23, "  waits for data 23 % of the time")])
def test_waiting_is_said_when_it_matters(capsys, share, said):
    record = {"step": 7, "loss": 2.5, "lr": 1e-3, "tokens_per_s": 1000.0, "skipped": False}
    Progress(100, shown=True).step(record, share)
    line = capsys.readouterr().out
    assert line == f"step   7/100  loss 2.5000  lr 1.00e-03  1,000 tokens/s  time left: measuring{said}\n"

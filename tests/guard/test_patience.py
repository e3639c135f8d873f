"""Whoever waits for ranks that do not come says so: the first of each node, after a while and then seldom."""

from __future__ import annotations

import time

import pytest

from dstrain.guard import patience


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.3)
    monkeypatch.setattr(patience, "AGAIN_S", 0.6)
    for name, value in {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("local_rank, world, waits_s, lines", [(0, 4, 1.2, 2), (0, 4, 0.1, 0), (1, 4, 0.6, 0),
                                                               (0, 1, 0.6, 0)])
def test_the_first_rank_of_a_node_says_for_whom_it_waits_and_where(monkeypatch, capfd, local_rank, world, waits_s,
                                                                   lines):
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with patience.meeting_others():
        time.sleep(waits_s)
    time.sleep(0.8)  # nothing more is said afterwards
    said = capfd.readouterr().err
    assert said.count("\n") == lines == said.count("rank 2: waiting for the other ranks (4 in all, they meet at node7")

"""Health before the first step on a real network: a node behind a slow cable is named, and who goes through it."""

from __future__ import annotations

import json
import subprocess

import pytest

SLOW_BYTES_PER_S = 20e6 / 8
SLOW_CABLE = ("root", "tbf", "rate", "20mbit", "burst", "32kbit", "latency", "400ms")
"""between the switch and n3, in one direction"""


@pytest.fixture
def slow_cable(runs):
    try:
        runs.cluster.on("fabric", "tc", "qdisc", "replace", "dev", "to-n3", *SLOW_CABLE)
    except (AssertionError, subprocess.SubprocessError) as error:
        pytest.skip(f"this machine's kernel cannot slow down a link: {error}")
    yield
    runs.cluster.on("fabric", "tc", "qdisc", "del", "dev", "to-n3", "root")


def test_a_node_behind_a_slow_cable_is_named_within_seconds(runs, slow_cable):
    job = runs.submit("slow_cable", nodes="3")
    runs.finish(job)
    health = json.loads(runs.folder("slow_cable").environment.read_text())
    rates = {tuple(link["between"]): link["bytes_per_s"] for link in health["links"]}
    assert set(rates) == {("n1", "n2"), ("n1", "n3"), ("n2", "n3")}
    assert rates["n1", "n3"] < 2 * SLOW_BYTES_PER_S > rates["n2", "n3"]
    named = [line for line in health["warnings"] if line.startswith("n3 is slow to reach from all other nodes: ")]
    assert len(named) == 1 and "through eth0" in named[0]
    assert "set in the recipe environment: {GLOO_SOCKET_IFNAME: " in named[0]
    assert f"dstrain: {named[0]}" in "".join(path.read_text() for path in runs.checkout.rglob(f"*{job}*.log"))
    assert [node["host"] for node in health["nodes"]] == ["n1", "n2", "n3"]
    assert all(node["interface"] == "eth0" and abs(node["clock_ahead_s"]) < 1 for node in health["nodes"])
    assert health["checked_in_s"] < 30  # on a busy machine; about 2

"""One cluster for all tests of this folder, with a checkout of dstrain and a small recipe on its shared folder."""

from __future__ import annotations

import pytest
from cluster_runs import Runs
from slurm_cluster import Cluster, skip_or_fail, what_is_lacking


@pytest.fixture(scope="session")
def machine() -> None:
    """One that can boot a cluster."""
    skip_or_fail(what_is_lacking())


@pytest.fixture(scope="session")
def booted(machine):
    with Cluster() as cluster:
        yield Runs(cluster)


@pytest.fixture
def runs(booted):
    """All nodes idle, whatever the test before has done to them."""
    booted.cluster.wait_for_nodes()
    return booted

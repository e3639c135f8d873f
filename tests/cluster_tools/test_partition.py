"""Whether a partition could ever run the job that is asked for."""

from __future__ import annotations

import pytest
from slurm_stand_in import SlurmStandIn
from test_request import asked

from dstrain.cluster import slurm
from dstrain.cluster.partition import fitted
from dstrain.config.errors import UserError


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    stand_in = SlurmStandIn(tmp_path / "slurm")
    monkeypatch.setenv("PATH", stand_in.path)
    return slurm.nodes()


def test_nothing_is_left_open(nodes):
    fit = fitted(asked(gpus="4", nodes="2"), nodes)
    assert (fit.request.partition, fit.request.time_s, fit.request.cpus) == ("gpu", 12 * 3600, 16)
    assert {node.name for node in fit.nodes} == {"n1", "n2", "n3"} and "time limit 2-00:00:00" in fit.words
    assert not fit.notes


def test_the_partitions_limit_is_the_time_where_it_is_less(nodes, tmp_path, monkeypatch):
    stand_in = SlurmStandIn(tmp_path / "short")
    stand_in.nodes("n1|short*|up|30:00|1-infinite|(null)|2|1000|idle")
    monkeypatch.setenv("PATH", stand_in.path)
    fit = fitted(asked(gpus="0"), slurm.nodes())
    assert fit.request.time_s == 1800 and fit.request.cpus == 2  # as many as the node has


def test_nodes_that_are_down_are_waited_for_and_that_is_said(nodes):
    assert "only 2 of these nodes are up now (1 down*, 1 idle, 1 mix)" in fitted(
        asked(gpus="4", nodes="3"), nodes).notes[0]


@pytest.mark.parametrize("options, said", [
    ({"partition": "gpus"}, "--partition gpus: this cluster has none of that name; did you mean 'gpu'"),
    ({"partition": "closed"}, "--partition closed: takes no jobs now"),
    ({"gpus": "8"}, "--gpus 8: the nodes of partition gpu have at most 4 GPUs a node"),
    ({"gpus": "4", "nodes": "4"}, "--nodes 4: partition gpu has 3"),
    ({"gpus": "4", "time": "3-0"}, "--time 3-00:00:00: partition gpu allows 2-00:00:00.*--chain"),
    ({"gpus": "4", "cpus": "64"}, "--cpus 64: the nodes of partition gpu have at most 32 cores"),
    ({"gpus": "4", "memory": "1T"}, "--memory 1T: the nodes of partition gpu have at most 256000M of memory"),
    ({"gpus": "0", "partition": "cpu", "nodes": "2"}, "--nodes 2: partition cpu gives a job at most 1"),
    ({"gpus": "1", "partition": "cpu"}, "--gpus 1: the nodes of partition cpu have at most 0")])
def test_what_could_never_run_is_refused_before_the_queue(nodes, options, said):
    with pytest.raises(UserError, match=said):
        fitted(asked(**options), nodes)


def test_nodes_that_are_too_small_do_not_count(tmp_path, monkeypatch):
    stand_in = SlurmStandIn(tmp_path / "mixed")
    stand_in.nodes("n1|gpu*|up|infinite|1-infinite|gpu:8|8|1000|idle",
                   "n2|gpu*|up|infinite|1-infinite|gpu:2|8|1000|idle")
    monkeypatch.setenv("PATH", stand_in.path)
    with pytest.raises(UserError, match=r"--gpus 4: only 1 node\(s\) of partition gpu have that much"):
        fitted(asked(gpus="4", nodes="2"), slurm.nodes())


def test_a_cluster_without_a_default_partition_wants_one_named(tmp_path, monkeypatch):
    stand_in = SlurmStandIn(tmp_path / "plain")
    stand_in.nodes("n1|a|up|infinite|1-infinite|(null)|8|1000|idle", "n2|b|up|infinite|1-infinite|(null)|8|1000|idle")
    monkeypatch.setenv("PATH", stand_in.path)
    with pytest.raises(UserError, match="no default partition: say --partition, one of a, b"):
        fitted(asked(gpus="0"), slurm.nodes())


def test_without_slurm_nothing_is_claimed_to_be_checked():
    fit = fitted(asked(gpus="2"), None)
    assert fit.nodes is None and fit.request.cpus == 8 and "not checked" in fit.notes[0]

"""Health before the first step, on four real ranks: what differs between them, or between nodes, is named."""

from __future__ import annotations

import re

import pytest
from health_jobs import checked

from dstrain.runtime.differences import Node, wrong_interfaces
from dstrain.runtime.dist import lone_rank
from dstrain.runtime.health import check_health, in_a_line
from dstrain.runtime.interfaces import in_use, interfaces
from dstrain.runtime.links import rounds_of, slow_ones
from dstrain.runtime.rank_group import RankGroup

NODES = ["n1", "n2", "n3", "n4"]
SLOW_BYTES_PER_S = 2e6


@pytest.fixture(scope="module")
def four_ranks():
    group = RankGroup(4)
    yield group
    group.close()


def same_but_time(health: dict) -> dict:
    return {key: value for key, value in health.items() if key != "checked_in_s"}


def run(group: RankGroup, *arguments, **planted) -> tuple:
    """What the first rank found and said; all found the same, and the others say nothing."""
    results = group.run(checked, *arguments, *[planted.get(name) for name in ("said", "clock_of", "slow")])
    first = results[0]
    assert [result[1] for result in results[1:]] == [[]] * 3
    if first[0] is not None:
        assert all(same_but_time(result[0]) == same_but_time(first[0]) for result in results)
    return first


def test_four_healthy_nodes_are_measured_and_nothing_is_said(four_ranks, tmp_path):
    for _ in range(3):  # on a machine that is busy with other things a link may look slow
        found, lines, mistake, took_s = run(four_ranks, str(tmp_path), NODES)
        if not lines:
            break
    assert (lines, mistake) == ([], None) and found["warnings"] == []
    assert [said["host"] for said in found["ranks"]] == NODES
    assert all(said[key] for said in found["ranks"] for key in ("device", "python", "torch", "deepspeed", "dstrain",
                                                                "free_bytes", "disk_bytes"))
    assert {tuple(link["between"]) for link in found["links"]} == {
        ("n1", "n2"), ("n1", "n3"), ("n1", "n4"), ("n2", "n3"), ("n2", "n4"), ("n3", "n4")}
    assert all(link["bytes_per_s"] > 1e6 for link in found["links"] + [found["all_reduce"]])
    assert all(abs(node["clock_ahead_s"]) < 0.5 for node in found["nodes"])
    assert [node["ranks"] for node in found["nodes"]] == [[0], [1], [2], [3]]
    assert took_s < 10
    assert re.fullmatch(r"4 on 4 node\(s\), between nodes .+ to .+, all-reduce .+, clocks within 0\.\d+ s, checked in "
                        r".+ s", in_a_line(found))


def test_one_node_has_its_figure_within_and_no_links(four_ranks, tmp_path):
    found, lines, *_ = run(four_ranks, str(tmp_path), ["n1"] * 4)
    assert lines == [] and found["links"] == [] and found["all_reduce"]["bytes_per_s"] > 1e6
    assert [node["ranks"] for node in found["nodes"]] == [[0, 1, 2, 3]] and "clock_ahead_s" not in found["nodes"][0]


@pytest.mark.parametrize("said, says", [
    ({2: {"torch": "2.4.0"}}, "n2 (rank 2) has torch 2.4.0, the others 2."),
    ({2: {"deepspeed": None}, 3: {"deepspeed": None}}, "n2 (ranks 2 to 3) has deepspeed unknown, the others 0."),
    ({1: {"dstrain": "0.0.1"}, 3: {"dstrain": "0.0.1"}}, "n2 (rank 3) has dstrain 0.0.1, the others "),
])
def test_another_version_of_what_must_be_equal_is_a_mistake_before_anything_is_written(four_ranks, tmp_path, said,
                                                                                       says):
    found, lines, mistake, _ = run(four_ranks, str(tmp_path / "run"), ["n1", "n1", "n2", "n2"], said=said)
    assert found is None and lines == [] and not list(tmp_path.iterdir())
    assert mistake.startswith("the ranks do not run the same code: ") and says in mistake and "\n" not in mistake
    assert "Use one environment and one checkout for all nodes" in mistake


def test_what_had_better_be_equal_is_said_in_one_line_a_node(four_ranks, tmp_path):
    code = {2: {"code": "0badc0de"}}
    _, lines, *_ = run(four_ranks, str(tmp_path), NODES, said=code)
    assert len(lines) == 1 and lines[0].startswith("dstrain: n3 (rank 2) has code 0badc0de, the others ")
    said = {2: {"device": "NVIDIA A100", "driver": "535.1"}, 3: {"device": "NVIDIA A100", "driver": "535.1"}}
    found, lines, mistake, _ = run(four_ranks, str(tmp_path), ["n1", "n1", "n2", "n2"], said=said)
    assert mistake is None and found["warnings"] == [line.removeprefix("dstrain: ") for line in lines]
    assert len(lines) == 2 and lines[0].startswith("dstrain: n2 (ranks 2 to 3) has driver 535.1, the others unknown: ")
    assert lines[1].startswith("dstrain: n2 (ranks 2 to 3) has device NVIDIA A100, the others cpu, ")


def test_little_disk_and_a_run_folder_that_is_not_shared_are_said(four_ranks, tmp_path):
    full = {"free_bytes": 5 * 2**20, "disk_bytes": 2**40}
    _, lines, *_ = run(four_ranks, "runs/x", NODES, said={rank: full for rank in range(4)})
    assert lines == ["dstrain: the disk of runs/x has 5 MiB free: make room, or choose another place with run.dir=..."]
    other = {rank: {"free_bytes": 2**40, "disk_bytes": 2**41} for rank in range(3)}
    _, lines, *_ = run(four_ranks, "runs/x", NODES, said={**other, 3: full})
    assert lines[0].startswith("dstrain: n4: the disk of runs/x has 5 MiB free")
    assert lines[1].startswith("dstrain: n4 has runs/x on a disk of 1,024.0 GiB, n1 on one of 2,048.0 GiB: the run ")
    assert len(lines) == 2


def test_a_clock_that_is_wrong_is_measured_by_a_round_trip(four_ranks, tmp_path):
    found, lines, *_ = run(four_ranks, str(tmp_path), NODES, clock_of={1: -30.0, 3: 1.5})
    assert [round(node["clock_ahead_s"]) for node in found["nodes"]][:3] == [0, -30, 0]
    assert 1.0 < found["nodes"][3]["clock_ahead_s"] < 2.0
    assert len(lines) == 1 and lines[0].startswith("dstrain: the clock of n2 is 30.0 s behind that of n1 (measured to ")


def test_a_slow_link_is_named_with_its_interface_and_what_to_set(four_ranks, tmp_path):
    found, lines, _, took_s = run(four_ranks, str(tmp_path), NODES, slow={(1, 3): SLOW_BYTES_PER_S})
    assert len(lines) == 1 and lines[0].startswith("dstrain: the link between n2 and n4 is slow: ")
    assert "environment: {GLOO_SOCKET_IFNAME: " in lines[0] and took_s < 15
    rate = next(link["bytes_per_s"] for link in found["links"] if link["between"] == ["n2", "n4"])
    assert rate <= SLOW_BYTES_PER_S


def test_a_node_that_is_slow_to_reach_is_named_itself_and_none_of_its_links(four_ranks, tmp_path):
    slow = {pair: SLOW_BYTES_PER_S for pair in ((0, 2), (1, 2), (2, 3))}
    _, lines, *_ = run(four_ranks, str(tmp_path), NODES, slow=slow)
    assert len(lines) == 1 and lines[0].startswith("dstrain: n3 is slow to reach from all other nodes: ")


def test_one_process_says_what_it_is_and_measures_nothing(tmp_path):
    found = check_health(lone_rank(), tmp_path / "not/yet", print)
    assert found["warnings"] == [] and len(found["ranks"]) == len(found["nodes"]) == 1 and "links" not in found
    assert in_a_line(found) is None and found["ranks"][0]["free_bytes"] > 0
    assert min(check_health(lone_rank(), tmp_path, print)["checked_in_s"] for _ in range(5)) < 0.05


@pytest.mark.parametrize("nodes", [2, 3, 4, 7, 64])
def test_every_pair_meets_once_and_nobody_twice_in_a_round(nodes):
    rounds = rounds_of(nodes)
    pairs = [pair for of_round in rounds for pair in of_round]
    assert len(pairs) == len(set(pairs)) == nodes * (nodes - 1) // 2 and all(one < other for one, other in pairs)
    assert all(len({node for pair in of_round for node in pair}) == 2 * len(of_round) for of_round in rounds)
    assert len(rounds) == nodes - 1 + nodes % 2


@pytest.mark.parametrize("rates, nodes, slow", [
    ({(0, 1): 1.0}, 2, ([], [])),                                                    # nothing to compare with
    ({(0, 1): 1.0, (0, 2): 0.1, (1, 2): 0.1}, 3, ([2], [])),                         # the median itself is slow
    ({(0, 1): 1.0, (0, 2): 0.1, (1, 2): 0.9}, 3, ([], [(0, 2)])),
    ({(0, 1): 1.0, (0, 2): 0.5, (1, 2): 0.5}, 3, ([], [])),                          # slower, not clearly
])
def test_a_slow_node_and_a_slow_link_are_told_apart(rates, nodes, slow):
    assert slow_ones(rates, nodes) == slow


def test_the_wrong_interface_is_named_with_the_one_that_was_meant():
    slow, fast = {"address": "10.0.0.1", "mbit_per_s": 1000, "hardware": True}, {
        "address": "10.1.0.1", "mbit_per_s": 100_000, "hardware": True}
    virtual = {**fast, "hardware": False}
    nodes = [Node("n1", [0], "ib0", {"eth0": slow, "ib0": fast}), Node("n2", [1], "eth0", {"eth0": slow, "ib0": fast}),
             Node("n3", [2], "ib0", {"ib0": fast}), Node("n4", [3], "docker0", {"docker0": virtual, "ib0": fast}),
             Node("n5", [4], "ib0", {"eth0": slow, "ib0": fast})]
    lines = wrong_interfaces(nodes, "GLOO_SOCKET_IFNAME")
    assert lines == ["n2 talks through eth0 (1,000 Mbit/s), but has ib0 (100,000 Mbit/s): set in the recipe "
                     "environment: {GLOO_SOCKET_IFNAME: ib0}",
                     "n4 talks through docker0, the others through ib0: where that is not meant, set in the recipe "
                     "environment: {GLOO_SOCKET_IFNAME: ib0}"]
    only_virtual = [Node("n1", [0], "eth0", {"eth0": slow, "docker0": virtual})] * 2
    assert wrong_interfaces(only_virtual, "GLOO_SOCKET_IFNAME") == []


def test_the_interface_in_use_is_the_one_that_was_told(monkeypatch):
    assert interfaces()["lo"] == {"address": "127.0.0.1", "mbit_per_s": None, "hardware": False}
    there = {"lo": {"address": "127.0.0.1"}, "ib0": {"address": "10.1.0.1"}}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib")
    assert in_use("cpu", there) == in_use("cuda", there) == "ib0"
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    assert in_use("cuda", there) is None

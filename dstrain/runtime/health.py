"""Health before the first step: what the ranks are, whether they fit together, and how fast they talk to each other."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import torch
import torch.distributed as torch_dist

from dstrain.config.errors import Trouble
from dstrain.runtime import clocks, differences, links
from dstrain.runtime.differences import Node, speed
from dstrain.runtime.dist import Ranks
from dstrain.runtime.interfaces import VARIABLES, in_use
from dstrain.runtime.rank_report import report

ANSWERS_WITHIN_S = 60.0
"""a node that does not answer another one within this is named, and the run ends"""
SMALL_BYTES, LARGE_BYTES = 2**18, 2**22
WORTH_THE_LARGE_S = 0.02


def check_health(ranks: Ranks, run_folder: Path, say: Callable[[str], None]) -> dict:
    """What environment.json says of it. All ranks call it together, before anything is written.

    Ranks that cannot train together are a mistake; what is only odd is said, in one line each.
    """
    began = time.monotonic()
    with ranks.together("looking at this machine"):
        said = report(ranks, run_folder)
    reports = ranks.gather(said)
    broken = differences.must_be_equal(reports)
    if broken:
        raise ranks.mistake(f"the ranks do not run the same code: {'; '.join(broken[:4])}"
                            f"{f'; and {len(broken) - 4} more' if len(broken) > 4 else ''}. Use one environment and "
                            "one checkout for all nodes: on a folder that they share, or the same container image")
    warnings: list[str] = []

    def warn(lines: list[str]) -> None:
        warnings.extend(lines)
        for line in lines if ranks.first else []:
            say(f"dstrain: {line}")

    warn(differences.better_equal(reports) + differences.disks(reports, str(run_folder)))
    nodes = _nodes(reports, ranks.device.type)
    found = {"ranks": [{key: value for key, value in said.items() if key != "interfaces"} for said in reports],
             "nodes": [{"host": node.host, "ranks": node.ranks, "interface": node.interface,
                        "interfaces": node.interfaces} for node in nodes]}
    if ranks.world > 1:
        found |= _network(ranks, nodes, found["nodes"], warn)
    return found | {"warnings": warnings, "checked_in_s": round(time.monotonic() - began, 3)}


def in_a_line(health: dict) -> str | None:
    """For the first screen; None for a run of one process, which has nothing to compare."""
    if "all_reduce" not in health:
        return None
    nodes, rates = health["nodes"], [link["bytes_per_s"] for link in health["links"]]
    between = ("" if not rates else f"between nodes {speed(rates[0])}" if len(rates) == 1 else
               f"between nodes {speed(min(rates))} to {speed(max(rates))}")
    clock_s = max(abs(node.get("clock_ahead_s", 0.0)) for node in nodes)
    parts = [f"{len(health['ranks'])} on {len(nodes)} node(s)", between,
             f"all-reduce {speed(health['all_reduce']['bytes_per_s'])}",
             f"clocks within {clock_s:.3f} s" if len(nodes) > 1 else "", f"checked in {health['checked_in_s']:.1f} s"]
    return ", ".join(part for part in parts if part)


def _nodes(reports: list[dict], device: str) -> list[Node]:
    """In the order of their first ranks."""
    of_node: dict[tuple, list[dict]] = {}
    for said in reports:
        of_node.setdefault((said["host"], said["boot"]), []).append(said)
    return [Node(first["host"], [said["rank"] for said in (first, *others)], first.get("interface"),
                 first.get("interfaces", {})) for first, *others in of_node.values()]


def _network(ranks: Ranks, nodes: list[Node], of_nodes: list[dict], warn: Callable[[list[str]], None]) -> dict:
    """Between nodes clocks and links, pair by pair; then an all-reduce of all ranks, as training does it."""
    variable, rates = VARIABLES[ranks.device.type], {}
    if len(nodes) > 1:
        warn(differences.wrong_interfaces(nodes, variable))
        offsets = _between_nodes(ranks, nodes, "measuring the clocks", "gloo", clocks.offsets)
        for node, offset in zip(of_nodes, offsets):
            node["clock_ahead_s"], node["clock_round_trip_s"] = offset
        warn(differences.clocks([(node, *offset) for node, offset in zip(nodes, offsets)]))
        slow: tuple[list[int], list[links.Pair]] = [], []
        for _ in range(links.LOOKS):
            measured = _between_nodes(ranks, nodes, "measuring the links", _backend(ranks), _measured_by(ranks.device))
            for of_leader in measured:
                rates |= {pair: max(rate, rates.get(pair, 0.0)) for pair, rate in of_leader.items()}
            slow = links.slow_ones(rates, len(nodes))
            if slow == ([], []):
                break
        warn(differences.slow_links(nodes, *slow, rates, sorted(rates.values())[len(rates) // 2], variable))
    return {"links": [{"between": [nodes[one].host, nodes[other].host], "bytes_per_s": round(rate)}
                      for (one, other), rate in sorted(rates.items())], "all_reduce": _all_reduce(ranks)}


def _measured_by(device: torch.device) -> Callable:
    return lambda rank, leaders, group: links.measure(rank, leaders, device, group)


def _backend(ranks: Ranks) -> str:
    return "nccl" if ranks.device.type == "cuda" else "gloo"


def _between_nodes(ranks: Ranks, nodes: list[Node], what: str, backend: str,
                   measure: Callable[[int, list[int], Any], Any]) -> list:
    """What the first rank of each node finds out with those of the others, in a group of their own."""
    leaders, found = [node.ranks[0] for node in nodes], None
    group = torch_dist.new_group(leaders, timeout=timedelta(seconds=ANSWERS_WITHIN_S), backend=backend)
    with ranks.together(what):
        if ranks.rank in leaders:
            try:
                found = measure(ranks.rank, leaders, group)
            except RuntimeError as error:
                host = nodes[leaders.index(ranks.rank)].host
                why = " ".join(str(error).split())[:200]
                raise Trouble(f"{what} between nodes failed on {host}: {why}; look at the network of {host} and of its "
                              f"partner, and at {VARIABLES[ranks.device.type]}") from error
            finally:
                torch_dist.destroy_process_group(group)
    return [of_rank for rank, of_rank in enumerate(ranks.gather(found)) if rank in leaders]


def _all_reduce(ranks: Ranks) -> dict:
    """Of a small tensor, and of a larger one where that is quick: what a rank sends and gets in a second."""
    took_s, size = 0.0, 1
    for size in (1, SMALL_BYTES, LARGE_BYTES):
        tensor = torch.zeros(max(1, size // 4), device=ranks.device)
        began = time.perf_counter()
        float(ranks.sum(tensor)[0])  # waits for the device
        took_s = max(ranks.gather(time.perf_counter() - began))
        if size == SMALL_BYTES and took_s > WORTH_THE_LARGE_S:
            break
    return {"bytes": size, "bytes_per_s": round(2 * (ranks.world - 1) / ranks.world * size / took_s)}

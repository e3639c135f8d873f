"""What is odd about a set of ranks, from what each said of itself: in one line each, with what to do."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

MUST_BE_EQUAL = ("dstrain", "torch", "deepspeed")
"""else the ranks do not compute, or do not even send, the same"""
BETTER_EQUAL = {
    "code": "another checkout of dstrain, or one that was edited just now",
    "python": "numbers may differ in the last bits, and pickled objects may not be understood",
    "nccl": "the ranks may not find together",
    "cuda": "numbers may differ in the last bits",
    "driver": "speed may differ, and numbers in the last bits",
    "device": "all wait for the slowest, and numbers may differ in the last bits",
}
CLOCK_S = 2.0
LITTLE_BYTES = 2**30
FASTER = 2.0
"""times the interface in use: then another one was meant"""


class Node(NamedTuple):
    host: str
    ranks: list[int]
    interface: str | None
    """that its ranks talk through, where that is known"""
    interfaces: dict[str, dict]


def must_be_equal(reports: list[dict]) -> list[str]:
    return [line for key in MUST_BE_EQUAL for line in _others(reports, key)]


def better_equal(reports: list[dict]) -> list[str]:
    return [f"{line}: {why}" for key, why in BETTER_EQUAL.items() for line in _others(reports, key)]


def disks(reports: list[dict], folder: str) -> list[str]:
    """Little room for the run folder, or a run folder that is not the same for all."""
    of_hosts = {said["host"]: said for said in reversed(reports)}
    first = reports[0]
    little = [said for said in reversed(of_hosts.values())
              if said["free_bytes"] is not None and said["free_bytes"] < LITTLE_BYTES]
    same = {said["disk_bytes"] for said in reports} == {first["disk_bytes"]}
    lines = [f"{'the disk' if same else said['host'] + ': the disk'} of {folder} has {said['free_bytes'] / 2**20:,.0f} "
             "MiB free: make room, or choose another place with run.dir=..." for said in little[:1 if same else None]]
    return lines + [f"{said['host']} has {folder} on a disk of {_gib(said['disk_bytes'])}, {first['host']} on one of "
                    f"{_gib(first['disk_bytes'])}: the run folder must be one that all nodes share; set run.dir=..."
                    for said in reversed(of_hosts.values()) if said["disk_bytes"] != first["disk_bytes"]]


def clocks(offsets_s: list[tuple[Node, float, float]]) -> list[str]:
    """By node: seconds ahead of the first one's clock, and of the round trip in which that was measured."""
    first = offsets_s[0][0].host if offsets_s else ""
    return [f"the clock of {node.host} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} that of "
            f"{first} (measured to within {round_trip_s / 2:.3f} s): logs and file times mislead; set it, as by "
            "chrony or NTP"
            for node, ahead_s, round_trip_s in offsets_s if abs(ahead_s) > CLOCK_S]


def wrong_interfaces(nodes: list[Node], variable: str) -> list[str]:
    """Nodes that talk through another interface than the others, or through a slower one than they have."""
    lines = []
    usual = Counter(node.interface for node in nodes).most_common(1)[0][0] if nodes else None
    for node in nodes:
        used = node.interfaces.get(node.interface or "", {})
        faster = [name for name, about in node.interfaces.items() if about["hardware"] and used.get("mbit_per_s")
                  and (about["mbit_per_s"] or 0) > FASTER * used["mbit_per_s"]]
        if faster:
            best = faster[0]
            lines.append(f"{node.host} talks through {node.interface} ({used['mbit_per_s']:,} Mbit/s), but has "
                         f"{best} ({node.interfaces[best]['mbit_per_s']:,} Mbit/s): {remedy(variable, best)}")
        elif node.interface != usual and node.interface is not None and usual is not None:
            lines.append(f"{node.host} talks through {node.interface}, the others through {usual}: where that is not "
                         f"meant, {remedy(variable, usual)}")
    return lines


def slow_links(nodes: list[Node], slow_nodes: list[int], slow_pairs: list[tuple[int, int]],
               rates: dict[tuple[int, int], float], usual: float, variable: str) -> list[str]:
    """Named with the interface that they go through."""
    lines = []
    for number in slow_nodes:
        best = max(rate for pair, rate in rates.items() if number in pair)
        lines.append(f"{nodes[number].host} is slow to reach from all other nodes: {speed(best)} at best through "
                     f"{_interface(nodes[number])}, usual is {speed(usual)}: look at its cable, port and driver; where "
                     f"another interface was meant, {remedy(variable, _another(nodes[number]))}")
    for one, other in slow_pairs:
        lines.append(f"the link between {nodes[one].host} and {nodes[other].host} is slow: {speed(rates[one, other])} "
                     f"through {_interface(nodes[one])} and {_interface(nodes[other])}, usual is {speed(usual)}: look "
                     f"at the switch between them; where another interface was meant, "
                     f"{remedy(variable, _another(nodes[one]))}")
    return lines


def remedy(variable: str, name: str) -> str:
    return f"set in the recipe environment: {{{variable}: {name}}}"


def speed(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.2f} GB/s" if bytes_per_s >= 1e8 else f"{bytes_per_s / 1e6:.2f} MB/s"


def _others(reports: list[dict], key: str) -> list[str]:
    """Who has another value than most have; of two equally common ones the first rank's is the usual one."""
    counts = Counter(said.get(key) for said in reports)
    usual = max(counts, key=lambda value: (counts[value], value == reports[0].get(key)))
    odd: dict[tuple, list[int]] = {}
    for said in reports:
        if said.get(key) != usual:
            odd.setdefault((said["host"], said.get(key)), []).append(said["rank"])
    return [f"{host} ({in_words(ranks)}) has {key} {value or 'unknown'}, the others {usual or 'unknown'}"
            for (host, value), ranks in odd.items()]


def in_words(ranks: list[int]) -> str:
    """Ranks of one node mostly follow one another."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    whole = ranks == list(range(ranks[0], ranks[-1] + 1))
    return f"ranks {ranks[0]} to {ranks[-1]}" if whole else f"ranks {', '.join(map(str, ranks))}"


def _interface(node: Node) -> str:
    return node.interface or "the interface of its library's choice"


def _another(node: Node) -> str:
    """An interface that the node has and does not use, for an example."""
    return next((name for name in node.interfaces if name not in ("lo", node.interface)), "NAME")


def _gib(size: int | None) -> str:
    return "unknown size" if size is None else f"{size / 2**30:,.1f} GiB"

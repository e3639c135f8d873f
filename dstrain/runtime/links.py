"""How fast the nodes talk to each other, pair by pair, and which link or node is clearly slower than the others.

Each pair of nodes, one rank a node, sends both ways at once, as in an all-reduce. In one round every node has one
partner, so n nodes take n - 1 rounds (n, where n is odd), and each has its share of a fixed time.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Callable

import torch
import torch.distributed as torch_dist

SLOW = 1 / 3
"""of the median: clearly slower"""
LOOKS = 4
"""so often all is measured where something looks slow; the best of each link counts: a busy machine is no slow link"""
ALL_ROUNDS_S, ROUND_S = 3.0, 0.1
FIRST_BYTES, MOST_BYTES, GROWTH = 2**16, 2**24, 4
MOST_EXCHANGES = 10

Pair = tuple[int, int]


def measure(rank: int, leaders: list[int], device: torch.device, group: Any) -> dict[Pair, float]:
    """Bytes per second, each way, of the links of which this leader is the first; by numbers of nodes."""
    node, rounds, found = leaders.index(rank), rounds_of(len(leaders)), {}
    buffers = torch.zeros(MOST_BYTES, dtype=torch.uint8, device=device), torch.zeros(
        MOST_BYTES, dtype=torch.uint8, device=device)
    torch_dist.all_reduce(torch.zeros(1, device=device), group=group)  # NCCL wants all for the first time
    for pairs in rounds:
        pair = next((pair for pair in pairs if node in pair), None)
        if pair is None:
            continue
        partner = leaders[pair[1] if node == pair[0] else pair[0]]
        rate = _rate(lambda count, word: exchange(partner, buffers, count, word, group), node == pair[0],
                     min(ROUND_S, ALL_ROUNDS_S / len(rounds)))
        if node == pair[0]:
            found[pair] = rate
    return found


def rounds_of(nodes: int) -> list[list[Pair]]:
    """Every pair once; in a round no node twice. One stays in its place, the others go around it."""
    around = list(range(nodes + nodes % 2))  # the last one is a pause where the number is odd
    rounds = []
    for _ in range(len(around) - 1):
        pairs = [tuple(sorted(pair)) for pair in zip(around, reversed(around))][:len(around) // 2]
        rounds.append([pair for pair in pairs if pair[1] < nodes])
        around = [around[0], around[-1], *around[1:-1]]
    return rounds


def slow_ones(rates: dict[Pair, float], nodes: int) -> tuple[list[int], list[Pair]]:
    """Nodes of which all links are slow beside the links of the others, and further single links that are slow."""
    slow_nodes = []
    for node in range(nodes):
        own = [rate for pair, rate in rates.items() if node in pair]
        others = [rate for pair, rate in rates.items() if node not in pair]
        if others and max(own) < SLOW * statistics.median(others):
            slow_nodes.append(node)
    rest = {pair: rate for pair, rate in rates.items() if not set(pair) & set(slow_nodes)}
    return slow_nodes, [pair for pair, rate in rest.items() if len(rest) > 1 and rate < SLOW * statistics.median(
        [other for one, other in rest.items() if one != pair])]


def exchange(partner: int, buffers: tuple[torch.Tensor, torch.Tensor], count: int, word: int, group: Any) -> int:
    """Send so many bytes and get as many, at once; the first of them is a word. Says the partner's."""
    out, into = buffers[0][:count], buffers[1][:count]
    out[0] = word
    works = torch_dist.batch_isend_irecv([torch_dist.P2POp(torch_dist.isend, out, partner, group),
                                          torch_dist.P2POp(torch_dist.irecv, into, partner, group)])
    for work in works:
        work.wait()
    return int(into[0])  # on a GPU this waits for the device


def _rate(exchange_with_partner: Callable[[int, int], int], leads: bool, within_s: float) -> float:
    """The best of a few exchanges, larger as long as there is time; who leads says after each how it goes on."""
    exchange_with_partner(1, 0)  # both are here, and connected
    count, spent_s, best, done = FIRST_BYTES, 0.0, 0.0, 0
    while True:
        began = time.perf_counter()
        exchange_with_partner(count, 0)
        exchange_with_partner(1, 0)  # what was sent may still be on its way: the partner's answer says that it is there
        took_s = time.perf_counter() - began
        best, spent_s, done = max(best, count / took_s), spent_s + took_s, done + 1
        left_s = within_s - spent_s if done < MOST_EXCHANGES else 0.0
        growth = GROWTH if took_s * GROWTH <= left_s and count * GROWTH <= MOST_BYTES else int(took_s <= left_s)
        told = exchange_with_partner(1, growth)
        if not leads:
            growth = told
        if not growth:
            return best
        count *= growth

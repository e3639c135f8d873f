"""What a job is asked to be: nodes, ranks, time. Each option is checked on its own here, before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dstrain.cluster.slurm_time import seconds_of
from dstrain.config.errors import UserError
from dstrain.config.hints import shown

LAUNCHERS = ("deepspeed", "srun")
DEFAULT_TIME_S = 12 * 3600
CPUS_OF_A_RANK = 4
"""by default: the training thread, readers, the saver"""
MOST_NODES, MOST_RANKS, MOST_CHAIN = 100_000, 1024, 1000
_NAME = re.compile(r"[A-Za-z0-9_.,@+=-]+")
_MIB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


@dataclass(frozen=True, kw_only=True)
class Request:
    fewest_nodes: int
    most_nodes: int
    """more than fewest_nodes: the job starts on what there is between them (elastic)"""
    gpus: int
    """of a node; 0: CPU ranks"""
    ranks_per_node: int
    cpus: int | None
    """of a node; None: as many as fit the ranks"""
    memory: str | None
    """of a node, as Slurm writes it; None: the partition's default"""
    time_s: int | None
    """None: twelve hours, or the partition's limit where that is less"""
    partition: str | None
    account: str | None
    launcher: str
    signal_before_s: int
    """so long before the time limit the job is told to save and leave"""
    chain: int
    """jobs one after the other, of which each trains until its time limit; the rest go when the run is done"""
    sweep: str | None

    @property
    def worlds(self) -> list[int]:
        """Ranks at fewest, and at most."""
        return sorted({nodes * self.ranks_per_node for nodes in (self.fewest_nodes, self.most_nodes)})

    @property
    def memory_mib(self) -> int | None:
        return None if self.memory is None else int(int(self.memory.rstrip("KMGT")) *
                                                    _MIB.get(self.memory[-1], 1))


def request_of(given: Any, environment: Mapping[str, str]) -> Request:
    """From the command line's options. Where it is silent, sbatch's own variables count, as for sbatch."""
    fewest, most = _nodes(given.nodes)
    gpus = _whole("--gpus", given.gpus, 0, MOST_RANKS)
    if gpus and given.ranks_per_node is not None:
        raise UserError(f"--ranks-per-node {given.ranks_per_node}: with GPUs there is one rank a GPU; remove it, or "
                        f"ask for CPU ranks with --gpus 0")
    ranks = gpus or _whole("--ranks-per-node", given.ranks_per_node or "1", 1, MOST_RANKS)
    cpus = None if given.cpus is None else _whole("--cpus", given.cpus, 1, MOST_NODES)
    if cpus is not None and cpus < ranks:
        raise UserError(f"--cpus {cpus}: fewer cores a node than its {ranks} ranks; give at least {ranks}")
    memory = given.memory
    if memory is not None and not re.fullmatch(r"[1-9]\d*[KMGT]?", memory):
        raise UserError(f"--memory {shown(memory)}: not a size as Slurm writes it; write for example 64G (a node)")
    time_text = given.time or environment.get("SBATCH_TIMELIMIT")
    time_s = None if time_text is None else seconds_of(time_text)
    if time_text is not None and not time_s:
        raise UserError(f"--time {shown(time_text)}: not a time with an end; write hours:minutes:seconds, such as "
                        f"12:00:00, or days-hours, such as 2-12")
    chain = _whole("--chain", given.chain, 1, MOST_CHAIN)
    if chain > 1 and given.sweep is not None:
        raise UserError(f"--chain {chain}: with --sweep, every member goes back into the queue by itself at its time "
                        f"limit; leave one of the two out")
    names = {}
    for option in ("partition", "account"):
        names[option] = getattr(given, option) or environment.get(f"SBATCH_{option.upper()}")
        if names[option] is not None and not _NAME.fullmatch(names[option]):
            raise UserError(f"--{option} {shown(names[option])}: no name of a Slurm {option}; correct it")
    return Request(fewest_nodes=fewest, most_nodes=most, gpus=gpus, ranks_per_node=ranks, cpus=cpus, memory=memory,
                   time_s=time_s, launcher=given.launcher, sweep=given.sweep,
                   signal_before_s=_whole("--signal-before", given.signal_before, 1, 65535),
                   chain=chain, **names)


def _nodes(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", text)
    if not found:
        raise UserError(f"--nodes {shown(text)}: not a number of nodes; write 4, or 2-4 for a job that starts on any "
                        f"of 2 to 4 nodes")
    fewest, most = int(found[1]), int(found[2] or found[1])
    if most < fewest:
        raise UserError(f"--nodes {text}: {most} is less than {fewest}; write the smaller number first")
    return fewest, most


def _whole(option: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\d{1,9}", str(text)) or not low <= int(text) <= high:
        raise UserError(f"{option} {shown(text)}: not a whole number from {low} to {high}; correct it")
    return int(text)

"""Whether a partition of the cluster can run a job: it exists, takes jobs, has the nodes, the GPUs and the time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dstrain.cluster.request import CPUS_OF_A_RANK, DEFAULT_TIME_S, Request
from dstrain.cluster.slurm import Node
from dstrain.cluster.slurm_time import slurm_time
from dstrain.config.errors import UserError
from dstrain.config.hints import nearest


@dataclass(frozen=True)
class Fit:
    """A request with nothing left open, and the nodes that could serve it."""

    request: Request
    nodes: list[Node] | None
    """None: there was no Slurm to ask"""
    words: str
    notes: tuple[str, ...] = ()


def fitted(request: Request, all_nodes: list[Node] | None) -> Fit:
    """A UserError where the partition could never run it."""
    wanted = CPUS_OF_A_RANK * request.ranks_per_node
    if all_nodes is None:
        request = replace(request, cpus=request.cpus or wanted, time_s=request.time_s or DEFAULT_TIME_S)
        return Fit(request, None, "no Slurm answers on this machine",
                   ("no sinfo here: partition, nodes, GPUs and time limit are not checked",))
    name, there = _partition(request, all_nodes)
    limit_s = there[0].time_limit_s
    if not there[0].is_up:
        raise UserError(f"--partition {name}: takes no jobs now (sinfo: not up); choose another: "
                        f"{_others(all_nodes, name)}")
    if request.time_s is not None and limit_s is not None and request.time_s > limit_s:
        raise UserError(f"--time {slurm_time(request.time_s)}: partition {name} allows {slurm_time(limit_s)}; ask for "
                        f"that or less, and for as many jobs one after the other as it takes with --chain")
    most = there[0].most_nodes
    if most is not None and request.fewest_nodes > most:
        raise UserError(f"--nodes {request.fewest_nodes}: partition {name} gives a job at most {most}; ask for that or "
                        f"less, or choose another --partition")
    time_s = request.time_s or min(DEFAULT_TIME_S, limit_s or DEFAULT_TIME_S)
    able = _able(request, name, there)
    request = replace(request, time_s=time_s, partition=request.partition or name,
                      cpus=request.cpus or max(request.ranks_per_node, min(wanted, min(node.cpus for node in able))))
    ready = [node for node in able if node.is_there]
    notes = (() if len(ready) >= request.fewest_nodes else
             (f"only {len(ready)} of these nodes are up now ({_states(able)}): the job waits for the others",))
    gpus = f" with {_gpus(able)} GPUs" if request.gpus else ""
    words = (f"{name}: {len(able)} node(s){gpus} that fit, time limit "
             f"{'none' if limit_s is None else slurm_time(limit_s)}")
    return Fit(request, able, words, notes)


def _partition(request: Request, all_nodes: list[Node]) -> tuple[str, list[Node]]:
    names = sorted({node.partition for node in all_nodes})
    name = request.partition or next((node.partition for node in all_nodes if node.is_default), None)
    if name is None:
        raise UserError(f"this cluster has no default partition: say --partition, one of {', '.join(names)}")
    asked = name.split(",")  # a list: Slurm takes the first that can start the job
    for one in asked:
        if one not in names:
            raise UserError(f"--partition {one}: this cluster has none of that name; {nearest(one, names)}")
    there = [node for node in all_nodes if node.partition == asked[0]]
    return asked[0], there


def _able(request: Request, name: str, there: list[Node]) -> list[Node]:
    """The nodes with enough of everything."""
    able, left = there, len(there)
    for what, most, fits, remedy in (
            (f"--gpus {request.gpus}", max(node.gpus for node in there), lambda node: node.gpus >= request.gpus,
             "GPUs a node"),
            (f"--cpus {request.cpus or request.ranks_per_node}", max(node.cpus for node in there),
             lambda node: node.cpus >= (request.cpus or request.ranks_per_node), "cores a node"),
            (f"--memory {request.memory}", f"{max(node.memory_mib for node in there)}M",
             lambda node: node.memory_mib >= (request.memory_mib or 0), "of memory a node")):
        able = [node for node in able if fits(node)]
        if not able:
            raise UserError(f"{what}: the nodes of partition {name} have at most {most} {remedy}; ask for that or "
                            f"less, or choose another --partition")
        if len(able) < request.fewest_nodes <= left:
            raise UserError(f"{what}: only {len(able)} node(s) of partition {name} have that much, and --nodes asks "
                            f"for {request.fewest_nodes}; ask for fewer nodes, or for less of each")
        left = len(able)
    if len(able) < request.fewest_nodes:
        raise UserError(f"--nodes {request.fewest_nodes}: partition {name} has {len(able)}; ask for at most that, or "
                        f"choose another --partition")
    return able


def _others(all_nodes: list[Node], name: str) -> str:
    return ", ".join(sorted({node.partition for node in all_nodes if node.is_up and node.partition != name})) or "none"


def _gpus(nodes: list[Node]) -> str:
    counts = sorted({node.gpus for node in nodes})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _states(nodes: list[Node]) -> str:
    states = [node.state for node in nodes]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))

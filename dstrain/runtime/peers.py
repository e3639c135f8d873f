"""Ranks that share out experts: all that DeepSpeed must be told of it, and whether it has understood."""

from __future__ import annotations

import torch
import torch.distributed as torch_dist
from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
from deepspeed.utils import groups

from dstrain.nn.exchange import Peers
from dstrain.runtime.dist import Ranks
from dstrain.runtime.fragments import share

REMEDY = "training would go wrong; set engine.expert_parallel=1, and please report it"


def expert_peers(size: int, ranks: Ranks) -> Peers:
    """This rank among `size` consecutive ones that together hold each expert once; all ranks call it together."""
    if size == 1:
        return Peers()
    name = f"ep_size_{size}"
    groups._create_expert_and_data_parallel(size)  # at the first call; DeepSpeed keeps its groups by their name
    same_experts = groups._get_expert_data_parallel_group(name)

    def mark(parameter: torch.nn.Parameter) -> None:
        parameter.allreduce = False  # stages 0 to 2 go by these two
        parameter.group_name = name
        parameter.ds_zero_placement_family = "autoep_expert"  # stage 3 by these three
        parameter.ds_zero_partition_group_name = name
        parameter.ds_zero_partition_process_group = same_experts

    return Peers(ranks.rank % size, size, groups._get_expert_parallel_group(name), mark)


def announce_experts(trainee: torch.nn.Module, peers: Peers) -> None:
    """After building, before DeepSpeed gets it."""
    if peers.size > 1:
        trainee.add_module("experts_apart", _ExpertsApart())


def check_understood(engine, stage: int, peers: Peers, ranks: Ranks) -> None:
    """Of each parameter DeepSpeed must sum the gradients of just the ranks that hold the same part of it.

    Without a word it would otherwise mix different experts, or leave equal ones to drift apart.
    """
    for name, parameter in engine.module.named_parameters():
        number, of = share(parameter)
        among = _holders(engine, stage, parameter)
        if among * of != ranks.world:
            raise RuntimeError(f"DeepSpeed sums the gradients of {name} over {among} ranks at ZeRO stage {stage}, but "
                               f"{ranks.world // of} of {ranks.world} hold the same part of it: {REMEDY}")
        if of > 1 and not engine.has_moe_layers:
            raise RuntimeError(f"DeepSpeed takes no heed of experts that live apart, such as {name}: {REMEDY}")
        if of > 1 and torch_dist.get_rank(peers.group) != number:
            raise RuntimeError(f"rank {ranks.rank} holds part {number} of {name}, but its peers send it the tokens of "
                               f"part {torch_dist.get_rank(peers.group)}: {REMEDY}")


def _holders(engine, stage: int, parameter: torch.nn.Parameter) -> int:
    """Over how many ranks DeepSpeed sums its gradient."""
    if stage == 3:
        return parameter.ds_zero_partition_world_size
    if getattr(parameter, "allreduce", True):
        return torch_dist.get_world_size()
    return torch_dist.get_world_size(engine.expert_data_parallel_group[parameter.group_name])


class _ExpertsApart(AutoEPMoELayer):
    """Holds nothing and does nothing. DeepSpeed looks for one by its class before it heeds what a parameter says of
    itself."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.num_experts = 0  # DeepSpeed only lists it

    def set_deepspeed_parallelism(self, *_, **__) -> None:
        """The groups are there already."""

    def forward(self) -> None:
        raise RuntimeError("a sign, never called")

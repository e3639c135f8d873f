"""Ranks: who am I, on which device, and the few collectives that dstrain itself needs."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field, replace
from typing import Any, Iterator

import torch

# Before deepspeed is imported: it looks at this once.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed  # noqa: E402  (after the accelerator is chosen)
import torch.distributed as torch_dist  # noqa: E402

from dstrain.config.errors import FailedElsewhere, SaidElsewhere, Trouble, TroubleElsewhere, UserError  # noqa: E402
from dstrain.guard.pulse import Pulse  # noqa: E402
from dstrain.runtime.quiet import quieten_deepspeed  # noqa: E402

# Compiled at every first start on a CPU (20 to 56 s) and leaking in /dev/shm, for one call that gloo does as well.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
quieten_deepspeed()


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int
    world: int
    device: torch.device
    side_group: Any
    """a gloo group for what travels beside the training: objects, agreements"""
    pulse: Pulse = field(default_factory=Pulse)
    """this rank's sign of life"""
    health: dict = field(default_factory=dict)
    """what was found of ranks, nodes and links before the first step (health.py)"""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place and on the device: nothing waits for it."""
        if self.world > 1:
            with self.pulse.waiting("sum"):
                torch_dist.all_reduce(tensor)
        return tensor

    def gather(self, thing: Any) -> list:
        """Every rank's `thing`, in rank order, on every rank."""
        if self.world == 1:
            return [thing]
        things: list = [None] * self.world
        with self.pulse.waiting("gather"):
            torch_dist.all_gather_object(things, thing, group=self.side_group)
        return things

    def share(self, thing: Any) -> Any:
        """The first rank's `thing` on every rank."""
        if self.world == 1:
            return thing
        box = [thing]
        with self.pulse.waiting("share"):
            torch_dist.broadcast_object_list(box, src=0, group=self.side_group)
        return box[0]

    def mistake(self, message: str) -> UserError:
        """For a mistake that all ranks find alike: raise this, and it is said once."""
        return UserError(message) if self.first else SaidElsewhere(message)

    def aside(self) -> Ranks:
        """The same ranks for another thread: with a group of its own, so that no two collectives can be mixed up.

        All ranks call it together.
        """
        group = torch_dist.new_group(backend="gloo") if self.world > 1 else None
        return replace(self, side_group=group, pulse=Pulse())

    @contextlib.contextmanager
    def together(self, what: str) -> Iterator[None]:
        """What happens inside must go well on all ranks, or fails on all. No collectives inside."""
        self.pulse.about(what)
        error = None
        try:
            yield
        except Exception as caught:  # raised again by agree, on every rank
            error = caught
        self.agree(error, what)

    def agree(self, error: Exception | None, what: str) -> None:
        """All ranks say whether `what` went well; if it failed anywhere, it fails everywhere.

        The first rank that failed raises its own error; a user's mistake is then said once, not once a rank.
        """
        reasons = self.gather(None if error is None else (_kind(error), f"{type(error).__name__}: {error}"))
        failed = [rank for rank, reason in enumerate(reasons) if reason is not None]
        if not failed:
            return
        if error is not None and self.rank == failed[0]:
            raise error
        kind, reason = reasons[failed[0]]
        raise kind(f"{what} failed on rank {failed[0]}: {reason}") from error


def _kind(error: Exception) -> type[Exception]:
    """As what the other ranks raise it: what one rank says in a line is not said again."""
    return (SaidElsewhere if isinstance(error, UserError) else TroubleElsewhere if isinstance(error, (Trouble, OSError))
            else FailedElsewhere)


def start_ranks() -> Ranks:
    """Join the other ranks, or be the only one where no launcher said otherwise. Safe to call twice."""
    alone = "WORLD_SIZE" not in os.environ
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, str(value))  # all five, or DeepSpeed goes looking for MPI
    if "MASTER_PORT" not in os.environ:
        if not alone:
            raise UserError("MASTER_PORT is not set, but WORLD_SIZE is: the ranks cannot find each other; "
                            "start with deepspeed, torchrun or srun through launch/train.py, or set both")
        os.environ["MASTER_PORT"] = str(free_port())
    rank, world, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    on_gpu = os.environ["DS_ACCELERATOR"] == "cuda"
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        _share_cores()
    if not torch_dist.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    side_group = torch_dist.new_group(backend="gloo") if world > 1 else None
    return Ranks(rank=rank, world=world, device=device, side_group=side_group)


def lone_rank() -> Ranks:
    """This process by itself, with no group: for using a model rather than training it."""
    device = torch.device("cuda" if os.environ["DS_ACCELERATOR"] == "cuda" else "cpu")
    return Ranks(rank=0, world=1, device=device, side_group=None)


def lost_a_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed",
             "remote process exited")
    return isinstance(error, torch_dist.DistBackendError) or any(sign in str(error) for sign in signs)


def stop_ranks() -> None:
    """Leave the group, so that no port and no thread stays behind."""
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


def _share_cores() -> None:
    """CPU ranks of one machine split its cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", os.environ["WORLD_SIZE"])))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

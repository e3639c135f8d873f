"""Trains a recipe: what the deepspeed launcher, torchrun, srun and plain python start, one process a rank.

    deepspeed launch/train.py RECIPE [section.key=value ...] [--deepspeed --deepspeed_config FILE]
    torchrun --standalone --nproc_per_node 2 launch/train.py RECIPE
    srun --ntasks-per-node 8 python launch/train.py RECIPE
    python launch/train.py RECIPE

It is `dstrain train` plus what launchers add. Works from any folder, with dstrain installed or not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    local_rank, arguments = split_arguments(sys.argv[1:])
    if local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    try:
        take_ranks_from_slurm(os.environ)
    except NoMaster as error:
        print(error, file=sys.stderr)
        return 2
    import leash  # beside this file

    leash.hold(os.environ)
    if leash.started_by_deepspeed():
        leave_the_fixed_port(os.environ, os.getppid())
    sys.path.insert(0, str(ROOT))
    from dstrain.__main__ import main as dstrain

    return dstrain(["train", *arguments])


def split_arguments(argv: list[str]) -> tuple[int | None, list[str]]:
    """The launcher's own arguments, and what is left for `dstrain train`, in its order."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--local_rank", "--local-rank", type=int)
    parser.add_argument("--deepspeed", action="store_true")  # says what is always so
    launchers, rest = parser.parse_known_args(argv)
    return launchers.local_rank, rest


def leave_the_fixed_port(environment: MutableMapping[str, str], launcher: int) -> None:
    """`deepspeed` on one machine lets all its runs meet at port 29500, where a second one breaks: the ranks take one
    that follows from their launcher's process id, which they share."""
    if environment.get("MASTER_PORT") == "29500" and environment.get("LOCAL_SIZE") == environment.get("WORLD_SIZE"):
        environment["MASTER_PORT"] = str(15000 + launcher % 15000)


class NoMaster(Exception):
    """No address at which the ranks could meet."""


def take_ranks_from_slurm(environment: MutableMapping[str, str]) -> None:
    """Under srun with one task a rank: Slurm's numbers, in the variables that torch.distributed reads.

    Not in a batch script's own shell: it has a SLURM_PROCID too, but no step, and is no rank.
    """
    step = environment.get("SLURM_STEP_ID", environment.get("SLURM_STEPID"))
    if "RANK" in environment or step is None or "SLURM_PROCID" not in environment:
        return
    world = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = "127.0.0.1" if int(world) == 1 else first_host(environment)
    start = 7 * int(environment.get("SLURM_RESTART_COUNT", "0")) + int(step)  # what an earlier one left is not met
    environment.setdefault("MASTER_PORT", str(15000 + (31 * int(environment["SLURM_JOB_ID"]) + start) % 15000))
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = world
    # With --gpus-per-task each task sees one GPU, its own, as number 0.
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    one_gpu = visible != "" and "," not in visible
    environment["LOCAL_RANK"] = "0" if one_gpu else environment["SLURM_LOCALID"]


def first_host(environment: MutableMapping[str, str]) -> str:
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise NoMaster(f"MASTER_ADDR is not set, and `scontrol show hostnames {nodes}` did not name this step's nodes "
                       f"({error}): set MASTER_ADDR to the first node's name") from error


if __name__ == "__main__":
    sys.exit(main())

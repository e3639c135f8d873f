"""What leaves the device for the CPU's memory: which settings that takes, and what a user is told of it."""

from __future__ import annotations

from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.hints import shown

def check_offload(place: str, block: dict[str, Any], stage: int) -> None:
    """Refuses what would have no effect, or would put the weights where no checkpoint reaches them."""
    for key, lowest_stage in (("offload_optimizer", 1), ("offload_param", 3)):
        offload = block.get(key) or {}
        target = offload.get("device", "none")
        name = f"{place}: zero_optimization.{key}"
        if target not in ("none", "cpu", "nvme"):
            raise UserError(f"{name}.device is {shown(target)}, but must be none or cpu; write one of them")
        if target == "none":
            continue
        if stage < lowest_stage:
            raise UserError(f"{name} is set at stage {stage}, but takes effect only from stage {lowest_stage} on; "
                            f"use stage {lowest_stage}, or remove it")
        if target == "nvme":
            raise UserError(f"{name}.device is nvme, but dstrain's checkpoints are written from memory, where such "
                            f"weights and moments are not; write cpu")
        for option, neutral in (("super_offload", False), ("ratio", 1)):
            if offload.get(option, neutral) not in (neutral, "auto"):
                raise UserError(f"{name}.{option} is {shown(offload[option])}, but needs DeepSpeed's own Adam, and "
                                f"dstrain uses torch's; remove it")


def offload_in_words(config: dict[str, Any], parameters: int, world: int) -> str | None:
    """What of a model of so many parameters lies where, in one line; None where nothing is offloaded.

    `config` is what engine_json returned.
    """
    zero = config["zero_optimization"]
    optimizer, weights = (_to_cpu(zero, key) for key in ("offload_optimizer", "offload_param"))
    if not optimizer and not weights:
        return None
    kind = "16-bit" if config["bf16"]["enabled"] or config["fp16"]["enabled"] else "fp32"
    moved, stays = [], "activations"
    if optimizer:
        moved.append("fp32 weights, gradients and moments, updated there by the CPU's cores")
    if weights:
        moved.append(f"{kind} weights, of which the device gets what a layer is about to use")
    else:
        stays = f"{kind} weights{', a part on each rank,' if zero['stage'] == 3 else ''} and activations"
    gib = parameters * bytes_of_a_parameter(config) / world / 2**30
    return f"in CPU memory, about {gib:.2g} GiB a rank: {'; '.join(moved)}. On the device: {stays}"


def bytes_of_a_parameter(config: dict[str, Any]) -> int:
    """How many bytes of CPU memory a parameter takes, to be divided by the ranks; with AdamW's two moments."""
    zero = config["zero_optimization"]
    size = 2 if config["bf16"]["enabled"] or config["fp16"]["enabled"] else 4
    held = 0
    if _to_cpu(zero, "offload_optimizer"):
        held += 4 + 4 + 8                             # weight, gradient, moments
        held += 4 if zero["stage"] == 3 else size     # the sum over micro-batches; a copy on its way to the device
    return held + (size if _to_cpu(zero, "offload_param") else 0)


def _to_cpu(zero: dict[str, Any], key: str) -> bool:
    return (zero.get(key) or {}).get("device", "none") == "cpu"

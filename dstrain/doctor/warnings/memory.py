"""Memory a rank needs by ZeRO stage and precision, beside what the device has."""

from __future__ import annotations

import torch

from dstrain.config.offload import bytes_of_a_parameter
from dstrain.config.shape import shape_of
from dstrain.config.counted import CountedInTokens
from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look
from dstrain.guard.machine import GIB, Memory
from dstrain.runtime.checkpoint.disk import in_units

SHARE = 0.9
"""of the device, beyond which a run may end out of memory: what libraries and fragments take is not counted"""
SEVERAL = 8


def figures(look: Look) -> list[Figure]:
    state = sum(state_bytes(look.config, look.parameters, look.world).values())
    activations = activation_bytes(look)
    parts = ", ".join(f"{name} {in_units(size)}" for name, size in
                      state_bytes(look.config, look.parameters, look.world).items() if size)
    parts += f", activations of a micro-batch about {in_units(activations)}" if activations is not None else ""
    needed, there, device = state + (activations or 0), *_there(look)
    stage = look.config["zero_optimization"]["stage"]
    more = ""
    if stage and look.world < SEVERAL:
        on_several = sum(state_bytes(look.config, look.parameters, SEVERAL).values()) + (activations or 0)
        more = f"; on {SEVERAL} ranks about {in_units(on_several)} each"
    text = f"about {in_units(needed)} a rank on {look.world} at stage {stage} ({parts}){more}"
    text += "" if there is None else f"; {device} has {in_units(there)}"
    if (on_host := bytes_of_a_parameter(look.config) * look.parameters / look.world):
        text += f"; offloaded to the memory of its host: {in_units(on_host)} a rank"
    short = there is not None and needed > SHARE * there
    return [Figure("memory", text, "too little: a smaller batch.micro_rows or micro_tokens, "
                   "model.checkpoint_activations=true, a higher ZeRO stage on more ranks, or an offload engine file"
                   if short else "")]


def state_bytes(config: dict, parameters: int, world: int) -> dict[str, float]:
    """On one rank's device; DeepSpeed keeps fp32 masters of its own from stage 1 on, and sums gradients in fp32."""
    zero = config["zero_optimization"]
    stage, half = zero["stage"], config["bf16"]["enabled"] or config["fp16"]["enabled"]
    offloaded = bytes_of_a_parameter(config) > 0
    share = parameters / world
    return {"weights": (share if stage == 3 else parameters) * (2 if half else 4),
            "gradients": (share if stage >= 2 else parameters) * 4,
            "masters": 0 if stage == 0 or offloaded else share * 4,
            "moments": 0 if offloaded else (parameters if stage == 0 else share) * 8}


def activation_bytes(look: Look) -> float | None:
    """Measured in fp32 on a smaller batch, and taken for a whole micro-batch in the engine's precision."""
    if look.full_pass is None:
        return None
    shape, batch = shape_of(look.recipe, look.world), look.recipe.batch
    positions = shape.micro_tokens if isinstance(batch, CountedInTokens) else shape.micro_rows * batch.length
    half = look.config["bf16"]["enabled"] or look.config["fp16"]["enabled"]
    return look.full_pass.saved_bytes * positions / look.full_pass.positions / (2 if half else 1)


def _there(look: Look) -> tuple[float | None, str]:
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        return about.total_memory, about.name
    left_gib = Memory().left_gib()
    return None if left_gib is None else left_gib * GIB, "this machine"

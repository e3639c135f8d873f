"""What of an offloaded run lies where, and how much of it: jobs for ranks, and for a process of its own on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from rank_jobs import build

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.runtime.dist import Ranks, start_ranks


def bytes_held(ranks: Ranks, recipe: Recipe, ds_config: str) -> tuple[int, int, dict]:
    """(bytes of what offload moves, parameters of the model, the settings) after building."""
    engine = build(ranks, recipe, ds_config)
    zero, parameters = engine.deepspeed.optimizer, engine.parameters
    if engine.stage == 3:
        flats = list(zero.fp32_partitioned_groups_flat)
        moved = [zero.grad_partitions_flat_buffer]
        if zero.offload_param:
            moved += [parameter.ds_tensor for parameter in engine.trainee.parameters()]
    else:
        flats = list(zero.single_partition_of_fp32_groups)
        moved = list(zero.param_buffer_of_bit16_for_cpu_offload_groups)
    moved += flats + [flat.grad for flat in flats]
    moved += [moment for flat in flats for key, moment in engine.optimizer.state[flat].items() if key != "step"]
    held = sum(tensor.numel() * tensor.element_size() for tensor in moved)
    engine.close()
    return held, parameters, engine_json(recipe, ranks.world, "cpu", ds_config)


def devices(recipe: Recipe, ds_config: str) -> dict[str, set[str]]:
    """Device types of fp32 masters, moments and the forward pass's weights between steps, on one GPU."""
    from dstrain.train.state import recipe_text

    code = (f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}; import offload_jobs; "
            f"offload_jobs.print_devices({recipe_text(recipe)!r}, {ds_config!r})")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "DS_ACCELERATOR": "cuda"})
    assert done.returncode == 0, done.stderr
    return {key: set(found) for key, found in json.loads(done.stdout.splitlines()[-1]).items()}


def print_devices(text: str, ds_config: str) -> None:
    import tempfile

    from dstrain.config.load import load_recipe

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        recipe = load_recipe(file.name)
    engine = build(start_ranks(), recipe, ds_config)
    found = list(engine.own_fragments())
    weights = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.trainee.parameters()]
    print(json.dumps({"master": _types(f.weight for f in found),
                      "moment": _types(m for f in found for m in f.moments.values()), "weight": _types(weights)}))


def _types(tensors) -> list[str]:
    return sorted({tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)})

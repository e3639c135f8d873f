"""Joins a ds_configs file with a recipe into the dict that DeepSpeed gets.

Every key that matters is written out, because DeepSpeed's defaults change between releases. What would train wrongly
is refused here, before any rank starts.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from dstrain.config.deepspeed_keys import REFUSED, ZERO_REFUSED, ZERO_STAGE3
from dstrain.config.ds_files import DsFile, read_ds_config
from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.join import refuse_contradictions
from dstrain.config.offload import check_offload
from dstrain.config.rules_model import divisors
from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape, shape_of

NEVER = 2**62
HALVES = ("bf16", "fp16")

PLAIN = {
    "steps_per_print": NEVER,
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
    "gradient_allreduce_op": "mean",
    "managed_gradient_accumulation": True,
}
"""top-level keys; dstrain builds torch's AdamW, which DeepSpeed calls untested and would refuse under offload"""

ZERO = {
    "contiguous_gradients": True,
    "reduce_bucket_size": 50_000_000,
    "use_multi_rank_bucket_allreduce": True,
    "allgather_partitions": True,
    "allgather_bucket_size": 50_000_000,
    "compute_grad_norm": True,
    "load_from_fp32_weights": True,
    "ignore_unused_parameters": True,
    "round_robin_gradients": False,
    "parameter_alignment": False,
    "sub_group_size": 1_000_000_000,
}
"""of every stage; bucket sizes in elements (DeepSpeed's own 5e8 would hold 2 GB a buffer)"""

ZERO3 = {
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 100_000,
    "stage3_model_persistence_threshold": sys.maxsize,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "stage3_gather_16bit_weights_on_model_save": False,
    "stage3_module_granularity_threshold": 0,
    "stage3_use_all_reduce_for_fetch_params": False,
    "stage3_allgather_sequential": False,
    "zero_hpz_partition_size": 1,
    "zero_quantized_weights": False,
    "zero_quantized_nontrainable_weights": False,
    "zero_quantized_gradients": False,
    "memory_efficient_linear": True,
}
"""of stage 3 besides"""

BF16 = {"immediate_grad_update": False, "check_grad_overflow": True, "bf16_master_weights_and_grads": False,
        "bf16_optimizer_states": False}
FP16 = {"auto_cast": False, "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2,
        "consecutive_hysteresis": False, "min_loss_scale": 1, "fp16_master_weights_and_grads": False}


def engine_json(recipe: Recipe, world: int, device: str, ds_config: str | None = None) -> dict[str, Any]:
    """DeepSpeed's settings for a resolved recipe on `world` ranks of `device` ("cpu" or "cuda").
    `ds_config`, a name or a path from the command line, wins over the recipe's engine.config."""
    ds_file = read_ds_config(ds_config or recipe.engine.config, "--deepspeed_config" if ds_config else "engine.config")
    refuse_contradictions(recipe, ds_file)
    shape = shape_of(recipe, world)
    _check_accumulation(shape, ds_file)
    _check_peers(recipe, world)
    stage = _stage(ds_file)
    precision = _precision(ds_file, stage, device)
    return {
        **_taken_over(ds_file),
        # DeepSpeed multiplies these and does nothing else with them: rows that differ from step to step count as one.
        "train_batch_size": (shape.micro_rows or 1) * shape.accumulation * world,
        "train_micro_batch_size_per_gpu": shape.micro_rows or 1,
        "gradient_accumulation_steps": shape.accumulation,
        # At stage 0 DeepSpeed applies a NaN without a word, so dstrain's own optimizer guards and clips there.
        "gradient_clipping": recipe.optim.clip if stage else 0.0,
        "zero_optimization": _zero(ds_file, stage, recipe.engine.expert_parallel > 1),
        "bf16": {"enabled": precision == "bf16", **(_filled(ds_file, "bf16", BF16) if precision == "bf16" else {})},
        "fp16": {"enabled": precision == "fp16", **(_filled(ds_file, "fp16", FP16) if precision == "fp16" else {})},
        "torch_autocast": _autocast(ds_file, precision),
        "communication_data_type": _communication(ds_file),
        "data_types": _data_types(ds_file),
        "timers": _filled(ds_file, "timers", {"throughput": {"enabled": False}}),
    }


def _taken_over(ds_file: DsFile) -> dict[str, Any]:
    """The plain keys: the file's word where it has one, dstrain's default otherwise. optimizer and scheduler stay
    behind: dstrain builds the one and steps the other itself."""
    special = {"zero_optimization", "bf16", "fp16", "torch_autocast", "data_types", "optimizer", "scheduler", "timers"}
    taken = dict(PLAIN)
    for key, value in ds_file.keys.items():
        if key in special or key in REFUSED:
            continue
        if value == "auto" and key not in PLAIN:
            if key in ("communication_data_type", "train_batch_size", "train_micro_batch_size_per_gpu",
                       "gradient_accumulation_steps", "gradient_clipping"):
                continue
            raise _no_auto(ds_file, key)
        taken[key] = PLAIN[key] if value == "auto" else value
    for key in ("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"):
        if taken[key] != PLAIN[key]:
            raise UserError(f"{ds_file.place}: {key} is {shown(taken[key])}, but dstrain builds torch's AdamW, which "
                            f"needs {shown(PLAIN[key])}; remove it")
    return taken


def _check_accumulation(shape: Shape, ds_file: DsFile) -> None:
    said = ds_file.keys.get("gradient_accumulation_steps", "auto")
    if said not in ("auto", None) and (isinstance(said, bool) or said != shape.accumulation):
        raise UserError(f"{ds_file.place}: gradient_accumulation_steps is {shown(said)}, but the recipe's batch on "
                        f"{shape.world} ranks takes {shape.accumulation} micro-batches of {shape.a_pass()}; "
                        f"remove it, or change batch.micro_{'rows' if shape.micro_rows else 'tokens'}")


def _check_peers(recipe: Recipe, world: int) -> None:
    peers = recipe.engine.expert_parallel
    if world % peers:
        experts = recipe.model.experts
        possible = divisors(math.gcd(world, experts))
        remedy = f"to one of {possible}" if "," in possible else (
            f"to 1, as with {world} rank(s) and {experts} experts nothing else goes")
        raise UserError(f"{world} rank(s), but engine.expert_parallel is {peers}: so many consecutive ranks share out "
                        f"the experts; use a multiple of {peers} ranks, or set engine.expert_parallel {remedy} "
                        f"(1: every rank has all experts)")


def _stage(ds_file: DsFile) -> int:
    stage = ds_file.keys.get("zero_optimization", {}).get("stage")
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise UserError(f"{ds_file.place}: zero_optimization.stage is {shown(stage)}, but must be 0, 1, 2 or 3; "
                        f"write one of them")
    return stage


def _precision(ds_file: DsFile, stage: int, device: str) -> str:
    """fp32, bf16, fp16 or autocast. "auto" is the same on every device: bf16, where nothing else is asked for and the
    stage allows it."""
    asked = {name: _enabled(ds_file, name) for name in (*HALVES, "torch_autocast")}
    if asked["fp16"] == "auto":
        asked["fp16"] = False
    if asked["torch_autocast"] == "auto":
        asked["torch_autocast"] = False
    if asked["bf16"] == "auto":
        asked["bf16"] = stage > 0 and not asked["fp16"] and not asked["torch_autocast"]
    chosen = [name for name, on in asked.items() if on]
    if len(chosen) > 1:
        raise UserError(f"{ds_file.place}: {' and '.join(chosen)} are both enabled; keep one of them")
    if not chosen:
        return "fp32"
    name = chosen[0]
    if name in HALVES and stage == 0:
        raise UserError(f"{ds_file.place}: {name} is enabled at zero_optimization.stage 0, where DeepSpeed trains "
                        f"wrongly with it; use stage 1 (zero1_{name})")
    if name == "fp16" and device == "cpu":
        raise UserError(f"{ds_file.place}: fp16 is enabled, but a CPU does not train in it (DeepSpeed refuses); "
                        f"use bf16 or fp32, for example engine.config=zero{stage}_bf16")
    _refuse_half_masters(ds_file, name)
    return "autocast" if name == "torch_autocast" else name


def _refuse_half_masters(ds_file: DsFile, name: str) -> None:
    block = ds_file.keys.get(name, {})
    for key in ("bf16_master_weights_and_grads", "bf16_optimizer_states", "fp16_master_weights_and_grads"):
        if block.get(key) not in (None, False, "auto"):
            raise UserError(f"{ds_file.place}: {name}.{key} is {shown(block[key])}, but checkpoints hold fp32 master "
                            f"weights and moments; remove it")
    if name == "bf16" and block.get("check_grad_overflow") not in (None, True, "auto"):
        raise UserError(f"{ds_file.place}: bf16.check_grad_overflow is {shown(block['check_grad_overflow'])}, but "
                        f"without it one NaN destroys the weights instead of skipping a step; remove it")


def _enabled(ds_file: DsFile, block_name: str) -> bool | str:
    value = ds_file.keys.get(block_name, {}).get("enabled", False)
    if value is not True and value is not False and value != "auto":
        raise UserError(f'{ds_file.place}: {block_name}.enabled is {shown(value)}, but must be true, false or "auto"; '
                        f"write one of them")
    return value


def _autocast(ds_file: DsFile, precision: str) -> dict[str, Any]:
    if precision != "autocast":
        return {"enabled": False}
    block = _filled(ds_file, "torch_autocast", {"dtype": "bfloat16"})
    if block["dtype"] not in ("bfloat16", "bf16", "torch.bfloat16"):
        raise UserError(f"{ds_file.place}: torch_autocast.dtype is {shown(block['dtype'])}, but only bfloat16 trains "
                        f"rightly there (fp16 hardly updates the weights); write bfloat16")
    return {**block, "enabled": True}


def _communication(ds_file: DsFile) -> str:
    """In which precision gradients travel from rank to rank: fp32, unless the file says otherwise.

    DeepSpeed's default is the weights' own. In bf16 each rank then adds a rounding, and in fp16 the sum over ranks may
    overflow where no rank's own gradient does: the curve would depend on the number of ranks.
    """
    name = _filled(ds_file, "communication_data_type", "fp32")
    if name not in ("fp32", *HALVES):
        raise UserError(f"{ds_file.place}: communication_data_type is {shown(name)}, but must be fp32, bf16 or fp16; "
                        f"write one of them")
    return name


def _data_types(ds_file: DsFile) -> dict[str, Any]:
    block = _filled(ds_file, "data_types", {"grad_accum_dtype": "fp32"})
    if block["grad_accum_dtype"] not in ("fp32", "float32", "torch.float32", "float"):
        raise UserError(f"{ds_file.place}: data_types.grad_accum_dtype is {shown(block['grad_accum_dtype'])}, but "
                        f"gradients are summed in fp32, or the loss would depend on the shape; write fp32")
    return block


def _zero(ds_file: DsFile, stage: int, experts_apart: bool) -> dict[str, Any]:
    block = {f"stage3_{key}" if key in ZERO_STAGE3 else key: value
             for key, value in ds_file.keys["zero_optimization"].items()
             if key not in ZERO_REFUSED and value is not None}
    # At stage 2 DeepSpeed all-reduces whole buckets either way: without the copies of a scatter it takes less time. But
    # where ranks share out experts it sums their gradients over the right ranks only with it.
    known = {**ZERO, "reduce_scatter": stage != 2 or experts_apart, "overlap_comm": stage == 3, **ZERO3}
    defaults = {key: value for key, value in known.items() if stage == 3 or (stage and key not in ZERO3)}
    for key, value in block.items():
        if value == "auto" and key not in known:  # known, and of another stage: it has no effect at this one
            raise _no_auto(ds_file, f"zero_optimization.{key}")
    check_offload(ds_file.place, block, stage)
    if experts_apart and stage in (1, 2) and block.get("reduce_scatter") is False:
        raise UserError(f"{ds_file.place}: zero_optimization.reduce_scatter is false, but DeepSpeed needs it where "
                        f"ranks share out experts (engine.expert_parallel); remove it")
    return {**defaults, **{key: value for key, value in block.items() if value != "auto"}}


def _filled(ds_file: DsFile, key: str, defaults: Any) -> Any:
    """The file's value, or the default; in a block, key by key. "auto" is the default."""
    value = ds_file.keys.get(key, "auto")
    if value is None or value == "auto":
        return defaults
    if not isinstance(defaults, dict):
        return value
    for name, item in value.items():
        if item == "auto" and name not in defaults and name != "enabled":
            raise _no_auto(ds_file, f"{key}.{name}")
    return {**defaults, **{name: item for name, item in value.items() if item != "auto" and name != "enabled"}}


def _no_auto(ds_file: DsFile, key: str) -> UserError:
    return UserError(f'{ds_file.place}: {key} is "auto", for which dstrain has no value; write one, or remove the key')

"""DeepSpeed's keys: which exist (it ignores unknown ones without a word), and which dstrain refuses, with the reason.

A test compares the lists with the installed DeepSpeed. They stand here because a login node has no DeepSpeed.
"""

from __future__ import annotations

from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.hints import nearest, shown

JOINED = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
          "optimizer", "scheduler"}
"""numbers whose home is the recipe: used where it is silent, fine where equal, refused where different"""

PASSED = {"aio", "bf16", "comms_logger", "communication_data_type", "data_types",
          "disable_allgather", "disable_python_gc", "dump_state", "flops_profiler", "fp16", "log_level",
          "memory_breakdown", "steps_per_print", "timers", "torch_autocast", "vocabulary_size",
          "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "zero_optimization"}
"""keys that reach DeepSpeed"""

_ORDER = "the loss law divides by counts over all ranks, and this rescales gradients behind its back; remove it"
_WRITES_ITSELF = "dstrain writes metrics.jsonl and TensorBoard itself, with the exact loss; remove it"
_CHECKPOINTS = "dstrain writes its own checkpoints, which this does not reach; remove it"
_DATA = "dstrain makes its own batches, which this does not reach; remove it"
_REMOVED = "DeepSpeed has removed it; remove it here too"
_MODEL_SPLIT = "dstrain's models are not split this way; remove it and use ZeRO stages to save memory"

REFUSED = {
    "prescale_gradients": _ORDER,
    "gradient_predivide_factor": _ORDER,
    "gradient_allreduce_op": _ORDER,
    "managed_gradient_accumulation": "dstrain relies on DeepSpeed counting the micro-batches; remove it",
    "sequence_parallel_size": "by configuration alone it gives wrong gradients at ZeRO stages 0 to 2; remove it",
    "seq_parallel_communication_data_type": "there is no sequence parallelism to communicate for; remove it",
    "data_efficiency": "it changes which batches are read, and a recipe alone decides that; remove it",
    "dataloader_drop_last": _DATA,
    "activation_checkpointing": "recomputing activations is the recipe's model.checkpoint_activations; "
                                "set that and remove it here",
    "autotuning": "it changes batch numbers behind the recipe's back; set batch.micro_rows instead and remove it",
    "checkpoint": _CHECKPOINTS,
    "datastates_ckpt": _CHECKPOINTS,
    "tensorboard": _WRITES_ITSELF,
    "csv_monitor": _WRITES_ITSELF,
    "wandb": _WRITES_ITSELF,
    "comet": _WRITES_ITSELF,
    "compile": "compiling is the recipe's engine.compile; set that and remove it here",
    "pipeline": _MODEL_SPLIT,
    "tensor_parallel": _MODEL_SPLIT,
    "expert_parallel": "how many ranks share out experts is the recipe's engine.expert_parallel; set that and remove "
                       "it here",
    "use_data_before_expert_parallelism": "consecutive ranks share out experts (engine.expert_parallel); remove it",
    "hybrid_engine": "it serves reinforcement learning, not training from scratch; remove it",
    "weight_quantization": "it serves inference, not training; remove it",
    "bfloat16": "this is the old name; write bf16",
    "allgather_size": "this is the old name; write zero_optimization.allgather_bucket_size",
    "amp": _REMOVED,
    "compression_training": _REMOVED,
    "curriculum_learning": _REMOVED,
    "eigenvalue": _REMOVED,
    "elasticity": _REMOVED,
    "graph_harvesting": _REMOVED,
    "nebula": _REMOVED,
    "progressive_layer_drop": _REMOVED,
    "quantize_training": _REMOVED,
    "sparse_attention": _REMOVED,
    "sparse_gradients": _REMOVED,
}
"""keys that DeepSpeed knows and dstrain does not take, unless their value changes nothing"""

CHANGES_NOTHING: dict[str, Any] = {
    "gradient_predivide_factor": 1, "gradient_allreduce_op": "mean", "managed_gradient_accumulation": True,
    "sequence_parallel_size": 1,
}

AUTO_CHANGES_NOTHING = {"prescale_gradients", "gradient_predivide_factor", "sparse_gradients",
                        "round_robin_gradients"}
"""files for other trainers say "auto" here and mean DeepSpeed's default, which is dstrain's value"""

ZERO_PASSED = {
    "stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "compute_grad_norm", "load_from_fp32_weights",
    "offload_param", "offload_optimizer", "sub_group_size", "ignore_unused_parameters",
    "parameter_alignment", "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients", "memory_efficient_linear", "pipeline_loading_checkpoint", "override_module_apply",
    "log_trace_cache_warnings", "enable_sanity_checks", "save_muon_momentum_buffer_in_memory", "leaf_module",
}

ZERO_STAGE3 = {"prefetch_bucket_size", "param_persistence_threshold", "model_persistence_threshold",
               "max_live_parameters", "max_reuse_distance", "gather_16bit_weights_on_model_save",
               "use_all_reduce_for_fetch_params", "allgather_sequential"}
"""written `stage3_NAME`; DeepSpeed takes the bare name too"""

_BREAKS = "DeepSpeed breaks off in the first step with it; remove it"
ZERO_REFUSED = {
    "zenflow": "it changes the loss from the first step on; remove it",
    "elastic_checkpoint": _CHECKPOINTS,
    "legacy_stage1": "the old implementation of stage 1 is untested here; remove it",
    "cpu_offload": 'this is the old form; write "offload_optimizer": {"device": "cpu"}',
    "cpu_offload_param": 'this is the old form; write "offload_param": {"device": "cpu"}',
    "cpu_offload_use_pin_memory": "this is the old form; write pin_memory inside offload_optimizer",
    "stage3_gather_fp16_weights_on_model_save": "this is the old name; write stage3_gather_16bit_weights_on_model_save",
    "round_robin_gradients": "it reorders the partitions that checkpoints are written from; remove it",
    "stage3_module_granularity_threshold": _BREAKS,
    "module_granularity_threshold": _BREAKS,
    "mics_shard_size": _REMOVED,
    "mics_hierarchical_params_gather": _REMOVED,
    "zeropp_loco_param": _REMOVED,
}

BLOCKS = {
    "bf16": {"enabled", "immediate_grad_update", "check_grad_overflow", "bf16_master_weights_and_grads",
             "bf16_optimizer_states"},
    "fp16": {"enabled", "auto_cast", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis",
             "consecutive_hysteresis", "min_loss_scale", "fp16_master_weights_and_grads"},
    "torch_autocast": {"enabled", "dtype", "lower_precision_safe_modules"},
    "data_types": {"grad_accum_dtype", "param_dtype", "buffer_dtype", "keep_in_fp32_modules"},
    "comms_logger": {"enabled", "prof_all", "prof_ops", "verbose", "debug"},
    "timers": {"throughput"},
    "optimizer": {"type", "params", "legacy_fusion"},
    "scheduler": {"type", "params"},
}
"""blocks whose own keys are checked; pydantic checks some, and DeepSpeed ignores unknown keys in the others"""

OFFLOAD = {
    "offload_param": {"device", "nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "pin_memory"},
    "offload_optimizer": {"device", "nvme_path", "buffer_count", "pin_memory", "pipeline_read", "pipeline_write",
                          "fast_init", "ratio", "super_offload", "cpuadam_cores_perc"},
}


def known_top_level() -> set[str]:
    return JOINED | PASSED | set(REFUSED)


def known_in_zero() -> set[str]:
    return ZERO_PASSED | ZERO_STAGE3 | {f"stage3_{name}" for name in ZERO_STAGE3} | set(ZERO_REFUSED)


def check_keys(keys: dict[str, Any], place: str) -> None:
    """Raises UserError for a key that does not exist or that dstrain refuses."""
    for key, value in keys.items():
        if key not in known_top_level():
            raise UserError(f"{place}: DeepSpeed has no key {shown(key)}; {nearest(key, JOINED | PASSED)}")
        if key in REFUSED and not changes_nothing(key, value):
            raise UserError(f"{place}: {key} is {shown(value)}, refused: {REFUSED[key]}")
        if key in BLOCKS and value is not None:
            _check_block(value, BLOCKS[key], key, place)
    zero = keys.get("zero_optimization", {})
    if zero is None:
        return
    if isinstance(zero, bool):
        raise UserError(f'{place}: zero_optimization is {shown(zero)}, the old form; write {{"stage": {int(zero)}}}')
    _check_block(zero, known_in_zero(), "zero_optimization", place)
    for name in sorted(ZERO_STAGE3):
        if name in zero and f"stage3_{name}" in zero:
            raise UserError(f"{place}: zero_optimization.stage3_{name} is {shown(zero[f'stage3_{name}'])} and {name} "
                            f"is {shown(zero[name])}, two names of one setting; keep one of them")
    for key, value in zero.items():
        if key in ZERO_REFUSED and not changes_nothing(key, value):
            raise UserError(f"{place}: zero_optimization.{key} is {shown(value)}, refused: {ZERO_REFUSED[key]}")
        if key in OFFLOAD and value is not None:
            _check_block(value, OFFLOAD[key], f"zero_optimization.{key}", place)


def changes_nothing(key: str, value: Any) -> bool:
    """True for what leaves DeepSpeed as it is: false, null, a block that is not enabled or has nothing on in it, the
    neutral value, or "auto" where that stands for it."""
    if isinstance(value, dict):
        return value.get("enabled") is False or not any(value.values())
    if value == "auto" and key in AUTO_CHANGES_NOTHING:
        return True
    return value is None or value == CHANGES_NOTHING.get(key, False)


def _check_block(block: Any, known: set[str], name: str, place: str) -> None:
    if not isinstance(block, dict):
        raise UserError(f"{place}: {name} is {shown(block)}, but must be an object, {{...}}; write one")
    for key in block:
        if key not in known:
            raise UserError(f"{place}: {name} has no key {shown(key)}; {nearest(key, known)}")

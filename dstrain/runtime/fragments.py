"""What this rank holds of each parameter's fp32 weight and moments, at any ZeRO stage, by name and offset.

This is the one place that knows how DeepSpeed lays its state out. A fragment's tensors are views: reading them is
saving, writing to them is loading. No rank ever gathers a whole model.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


class Fragment(NamedTuple):
    """Elements start .. start + weight.numel() of the flattened parameter `name`."""

    name: str
    start: int
    weight: torch.Tensor
    moments: dict[str, torch.Tensor]


def fragments(engine, stage: int) -> Iterator[Fragment]:
    """All that this rank holds (at stage 0 that is everything, on every rank)."""
    _create_moments(engine, stage)
    of_stage = {0: _whole, 1: _of_flat_groups, 2: _of_flat_groups, 3: _of_partitions}[stage]
    for name, parameter in engine.module.named_parameters():
        yield from of_stage(engine, name, parameter)


def own_fragments(engine, stage: int, rank: int, world: int) -> Iterator[Fragment]:
    """As `fragments`, but each element of each parameter on exactly one rank: what a checkpoint needs."""
    for fragment in fragments(engine, stage):
        if stage > 0:
            yield fragment
            continue
        size = fragment.weight.numel()
        first, end = size * rank // world, size * (rank + 1) // world
        if end > first:
            yield Fragment(fragment.name, first, fragment.weight[first:end],
                           {key: moment[first:end] for key, moment in fragment.moments.items()})


def check_layout(engine, stage: int) -> None:
    """Every fragment must be the part of its parameter that its name and offset say.

    It is compared with the module's own weights: a setting or a release of DeepSpeed that orders its partitions
    differently stops the run here, instead of writing checkpoints with the weights of other parameters.
    """
    parameters = dict(engine.module.named_parameters())
    for fragment in fragments(engine, stage):
        parameter, size = parameters[fragment.name], fragment.weight.numel()
        own = (parameter.ds_tensor.data[:size] if stage == 3
               else parameter.data.view(-1)[fragment.start:fragment.start + size])
        if not torch.equal(fragment.weight.to(own.device, own.dtype), own.view(-1)):
            raise RuntimeError(f"DeepSpeed's partition of {fragment.name} at ZeRO stage {stage} is not where "
                               "dstrain looks for it: checkpoints would be wrong; "
                               "leave settings that reorder partitions at their defaults")


def optimizer_step(engine) -> int:
    """How many updates the moments have seen: skipped steps do not count."""
    return max((int(state["step"]) for state in _inner(engine).state.values() if "step" in state), default=0)


def set_optimizer_step(engine, step: int) -> None:
    for state in _inner(engine).state.values():
        state["step"].fill_(step)


def gradient_fragments(engine, stage: int) -> Iterator[tuple[str, int, torch.Tensor]]:
    """(name, start, gradient) as the optimizer is about to use it; for proofs, from a hook before its step."""
    for name, parameter in engine.module.named_parameters():
        if stage == 0:
            yield name, 0, parameter.grad.flatten()
        elif stage < 3:
            mapping = parameter._hp_mapping
            if mapping is not None:
                flat = _flat_groups(engine)[mapping.param_group_index]
                address = mapping.hp_fragment_address
                if flat.grad is not None:
                    yield name, mapping.lp_fragment_address.start, flat.grad.narrow(0, address.start, address.numel)
        else:
            flat, offset, start, size = _partition(engine, parameter)
            if size > 0 and flat.grad is not None:
                yield name, start, flat.grad.narrow(0, offset, size)


def _inner(engine) -> torch.optim.Optimizer:
    return engine.basic_optimizer


def _flats(engine, stage: int) -> list[torch.Tensor]:
    """The tensors that the inner optimizer keeps its state by."""
    if stage == 0:
        return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    if stage < 3:
        return _flat_groups(engine)
    return list(engine.optimizer.fp32_partitioned_groups_flat)


def _flat_groups(engine) -> list[torch.Tensor]:
    """Stages 1 and 2: this rank's part of each parameter group. Stage 1 in bf16 has an optimizer wrapper of its own."""
    wrapper = engine.optimizer
    return list(wrapper.fp32_groups_flat_partition if hasattr(wrapper, "fp32_groups_flat_partition")
                else wrapper.single_partition_of_fp32_groups)


def _create_moments(engine, stage: int) -> None:
    """Before the first update the optimizer has no state yet: create AdamW's, as its own first update would."""
    inner = _inner(engine)
    for flat in _flats(engine, stage):
        if not inner.state[flat]:
            inner.state[flat]["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            for key in MOMENTS:
                inner.state[flat][key] = torch.zeros_like(flat, memory_format=torch.preserve_format)


def _whole(engine, name: str, parameter: torch.nn.Parameter) -> Iterator[Fragment]:
    state = _inner(engine).state[parameter]
    yield Fragment(name, 0, parameter.data.view(-1), {key: state[key].view(-1) for key in MOMENTS})


def _of_flat_groups(engine, name: str, parameter: torch.nn.Parameter) -> Iterator[Fragment]:
    mapping = parameter._hp_mapping
    if mapping is not None:
        flat = _flat_groups(engine)[mapping.param_group_index]
        state, address = _inner(engine).state[flat], mapping.hp_fragment_address
        yield Fragment(name, mapping.lp_fragment_address.start, flat.data.narrow(0, address.start, address.numel),
                       {key: state[key].narrow(0, address.start, address.numel) for key in MOMENTS})


def _of_partitions(engine, name: str, parameter: torch.nn.Parameter) -> Iterator[Fragment]:
    flat, offset, start, size = _partition(engine, parameter)
    if size > 0:
        state = _inner(engine).state[flat]
        yield Fragment(name, start, flat.data.narrow(0, offset, size),
                       {key: state[key].narrow(0, offset, size) for key in MOMENTS})


def _partition(engine, parameter: torch.nn.Parameter) -> tuple[torch.Tensor, int, int, int]:
    """Stage 3: (flat fp32 tensor, offset in it, start in the parameter, size without the padding at its end)."""
    group, offset, _ = engine.optimizer.grad_position[engine.optimizer.get_param_id(parameter)]
    start, size = partition_range(parameter, engine.global_rank)
    return engine.optimizer.fp32_partitioned_groups_flat[group], offset, start, size


def partition_range(parameter: torch.nn.Parameter, rank: int) -> tuple[int, int]:
    """Which elements of a ZeRO-3 parameter a rank holds: start and number."""
    length = parameter.ds_tensor.ds_numel
    start = min(rank * length, parameter.ds_numel)
    return start, min(length, parameter.ds_numel - start)

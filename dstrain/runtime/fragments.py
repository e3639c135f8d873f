"""What this rank holds of each parameter's fp32 weight and moments, at any ZeRO stage, by name and offset.

This is the one place that knows how DeepSpeed lays its state out. A fragment's tensors are views: reading them is
saving, writing to them is loading. No rank ever gathers a whole model.
"""

from __future__ import annotations

import hashlib
import math
from typing import Iterable, Iterator, NamedTuple

import torch

from dstrain.runtime.dist import Ranks

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "muon": ("momentum",)}
"""what the optimizer keeps of a parameter, by the rule of its group"""


class Fragment(NamedTuple):
    """Elements start .. start + weight.numel() of the flattened parameter `name`."""

    name: str
    start: int
    weight: torch.Tensor
    moments: dict[str, torch.Tensor]


class Place(NamedTuple):
    """Elements start .. start + size of the flattened parameter `name` stand at offset .. offset + size of `flat`."""

    name: str
    flat: torch.Tensor
    offset: int
    start: int
    size: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """This place in a tensor that is laid out as `flat` is: in its gradient, or in a moment."""
        return tensor.view(-1).narrow(0, self.offset, self.size)


def fragments(engine, stage: int) -> Iterator[Fragment]:
    """All that this rank holds of what is trained (at stage 0 everything, on every rank), once `create_moments` was
    called."""
    for place in places(engine, stage):
        state = _inner(engine).state[place.flat]
        yield Fragment(place.name, place.start, place.of(place.flat.data),
                       {key: place.of(moment) for key, moment in state.items() if key != "step"})


def own_fragments(engine, stage: int, rank: int, world: int) -> Iterator[Fragment]:
    """As `fragments`, but each element of each parameter on exactly one rank: what a checkpoint needs. Frozen
    parameters are among them."""
    parameters = dict(engine.module.named_parameters())
    for fragment in fragments(engine, stage):
        yield from [fragment] if stage > 0 else _part_of_rank(fragment, parameters[fragment.name], rank, world)
    for fragment in frozen_fragments(engine):
        yield from [fragment] if stage == 3 else _part_of_rank(fragment, parameters[fragment.name], rank, world)


def frozen_fragments(engine) -> Iterator[Fragment]:
    """What this rank's module holds of the parameters that are not trained. No optimizer knows them: they have no fp32
    copy and no moments, so what is saved of one is what is computed with, in bf16 the rounded value."""
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            start, size = held_range(parameter)
            if size > 0:
                yield Fragment(name, start, getattr(parameter, "ds_tensor", parameter).data.view(-1)[:size], {})


def _part_of_rank(fragment: Fragment, parameter: torch.nn.Parameter, rank: int, world: int) -> Iterator[Fragment]:
    """Of what several ranks hold alike. Of experts that are shared out, only every so manieth rank has the same."""
    size, (_, of) = fragment.weight.numel(), share(parameter)
    first, end = (size * number // (world // of) for number in (rank // of, rank // of + 1))
    if end > first:
        yield Fragment(fragment.name, fragment.start + first, fragment.weight[first:end],
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
               else parameter.data.view(-1).narrow(0, fragment.start - _share_start(parameter), size))
        if not torch.equal(fragment.weight.to(own.device, own.dtype), own.view(-1)):
            raise RuntimeError(f"DeepSpeed's partition of {fragment.name} at ZeRO stage {stage} is not where "
                               "dstrain looks for it: checkpoints would be wrong; "
                               "leave settings that reorder partitions at their defaults")


def check_covered(parts: Iterable[Fragment], shapes: dict[str, tuple[int, ...]], ranks: Ranks) -> None:
    """Over all ranks together every element must be in exactly one of the parts; all ranks call it together.

    Each end of a part counts +1 times a number of its own, each beginning -1 times. In a chain of parts from the
    parameter's beginning to its end these cancel, but for the first and the last; in nothing else do they.
    """
    numbers = dict.fromkeys(shapes, 0)
    for part in parts:
        numbers[part.name] += _number(part.name, part.start + part.weight.numel()) - _number(part.name, part.start)
    sums = ranks.sum(torch.tensor(list(numbers.values()), dtype=torch.int64, device=ranks.device)).tolist()
    for (name, shape), found in zip(shapes.items(), sums, strict=True):
        if found != _number(name, math.prod(shape)) - _number(name, 0):
            raise RuntimeError(f"of {name} not every element is on one rank exactly: checkpoints would be wrong; "
                               "leave DeepSpeed's settings of partitions at their defaults, and please report it")


def _number(name: str, place: int) -> int:
    """The same on every rank, and of 32 bits, so that no sum over ranks overflows."""
    return int.from_bytes(hashlib.blake2b(f"{name} {place}".encode(), digest_size=4).digest(), "big")


def optimizer_step(engine) -> int:
    """How many updates the moments have seen: skipped steps do not count."""
    return max((int(state["step"]) for state in _inner(engine).state.values() if "step" in state), default=0)


def set_optimizer_step(engine, step: int) -> None:
    for state in _inner(engine).state.values():
        if "step" in state:  # Muon counts none: its rule is the same at every step
            state["step"].fill_(step)


def gradient_fragments(engine, stage: int) -> Iterator[tuple[str, int, torch.Tensor]]:
    """(name, start, gradient) as the optimizer is about to use it; for proofs, from a hook before its step."""
    for place in places(engine, stage):
        if place.flat.grad is not None:
            yield place.name, place.start, place.of(place.flat.grad)


def create_moments(engine, stage: int) -> None:
    """Before the first update the optimizer has no state yet: create it, as its own first update would."""
    state = _inner(engine).state
    for flat, rule in _flats_and_rules(engine, stage):
        if rule == "adamw":
            state[flat]["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        for key in MOMENTS[rule]:
            state[flat][key] = torch.zeros_like(flat, memory_format=torch.preserve_format)


def places(engine, stage: int) -> Iterator[Place]:
    """Where this rank's parts of the parameters lie in the flat tensors that the optimizer works on."""
    of_stage = {0: _whole, 1: _in_flat_groups, 2: _in_flat_groups, 3: _in_partitions}[stage]
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        place = of_stage(engine, name, parameter)
        if place is not None and place.size > 0:
            yield place._replace(start=_share_start(parameter) + place.start)


def flats(engine, stage: int) -> list[torch.Tensor]:
    """The tensors that the inner optimizer works on and keeps its state by, in the same order on all ranks."""
    return [flat for flat, _ in _flats_and_rules(engine, stage)]


def forget_gradients(engine) -> None:
    """After a skipped step: with offload at stages 1 and 2 DeepSpeed would keep the sum over the micro-batches, NaN and
    all, add the next step's to it, and skip every step from there on."""
    if getattr(engine.optimizer, "cpu_offload", False):
        sums = engine.optimizer.averaged_gradients
        sums.update(dict.fromkeys(sums))


def _inner(engine) -> torch.optim.Optimizer:
    return engine.basic_optimizer


def _flats_and_rules(engine, stage: int) -> list[tuple[torch.Tensor, str]]:
    groups = _inner(engine).param_groups
    if stage == 0:
        return [(parameter, group["rule"]) for group in groups for parameter in group["params"]]
    if stage < 3:
        return [(flat, group["rule"]) for flat, group in zip(_flat_groups(engine), groups, strict=True)]
    group_of = engine.optimizer.sub_group_to_group_id
    return [(flat, groups[group_of[number]]["rule"])
            for number, flat in enumerate(engine.optimizer.fp32_partitioned_groups_flat)]


def _flat_groups(engine) -> list[torch.Tensor]:
    """Stages 1 and 2: this rank's part of each parameter group. Stage 1 in bf16 has an optimizer wrapper of its own."""
    wrapper = engine.optimizer
    return list(wrapper.fp32_groups_flat_partition if hasattr(wrapper, "fp32_groups_flat_partition")
                else wrapper.single_partition_of_fp32_groups)


def _whole(engine, name: str, parameter: torch.nn.Parameter) -> Place:
    return Place(name, parameter, 0, 0, parameter.numel())


def _in_flat_groups(engine, name: str, parameter: torch.nn.Parameter) -> Place | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    address = mapping.hp_fragment_address
    return Place(name, _flat_groups(engine)[mapping.param_group_index], address.start,
                 mapping.lp_fragment_address.start, address.numel)


def _in_partitions(engine, name: str, parameter: torch.nn.Parameter) -> Place:
    """Stage 3; without the padding at the parameter's end."""
    group, offset, _ = engine.optimizer.grad_position[engine.optimizer.get_param_id(parameter)]
    return Place(name, engine.optimizer.fp32_partitioned_groups_flat[group], offset,
                 *_partition(parameter))


def share(parameter: torch.nn.Parameter) -> tuple[int, int]:
    """(n, of how many): which part of the whole, cut along its first dimension, the parameter is on this rank. Other
    than (0, 1) only of experts that are shared out among ranks (nn/exchange.py)."""
    return getattr(parameter, "share", (0, 1))


def whole_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Of all ranks' parts together."""
    shape, (_, of) = getattr(parameter, "ds_shape", parameter.shape), share(parameter)
    return shape if of == 1 else torch.Size([shape[0] * of, *shape[1:]])


def held_range(parameter: torch.nn.Parameter) -> tuple[int, int]:
    """Which elements of the whole flattened parameter this rank's module holds: start and number."""
    start, size = _partition(parameter) if hasattr(parameter, "ds_tensor") else (0, parameter.numel())
    return _share_start(parameter) + start, size


def _share_start(parameter: torch.nn.Parameter) -> int:
    return share(parameter)[0] * getattr(parameter, "ds_numel", parameter.numel())


def _partition(parameter: torch.nn.Parameter) -> tuple[int, int]:
    """Stage 3: which elements of what its ranks share the parameter's partition here is; without padding."""
    length = parameter.ds_tensor.ds_numel
    start = min(parameter.ds_zero_partition_rank * length, parameter.ds_numel)
    return start, min(length, parameter.ds_numel - start)

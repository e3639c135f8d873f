"""The DeepSpeed engine around a trainee: at stage 3 built without any rank holding the whole model; stepped safely."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Callable, Iterator

import torch

from dstrain.runtime.dist import Ranks, deepspeed
from dstrain.runtime.fragments import (
    Fragment, check_layout, fragments, optimizer_step, own_fragments, partition_range, set_optimizer_step)
from dstrain.runtime.optimizer import GuardedAdamW, build_optimizer
from dstrain.runtime.schedules import build_schedule

WeightOf = Callable[[str, torch.Size], torch.Tensor]
"""(name, shape) -> the whole weight; may be a lazy view, of which only a part is then read"""

LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""what DeepSpeed's dynamic loss scaler counts"""


class Engine:
    """A trainee under DeepSpeed: forward, backward, update."""

    def __init__(self, build_trainee: Callable[[], torch.nn.Module], weights: Callable[[torch.nn.Module], WeightOf],
                 recipe: Any, config: dict, ranks: Ranks):
        self.ranks = ranks
        self.stage = config["zero_optimization"]["stage"]
        with _parameters_born_partitioned(self.stage, config):
            trainee = build_trainee()
        _refuse_what_no_checkpoint_carries(trainee)
        fill_weights(trainee, weights(trainee), ranks.rank)
        model = trainee.model
        self.optimizer = build_optimizer(trainee, lambda name: model.no_decay(own_name(name)), recipe.optim,
                                         guarded=self.stage == 0)
        self.deepspeed, *_ = deepspeed.initialize(model=trainee, optimizer=self.optimizer, config=config)
        check_layout(self.deepspeed, self.stage)
        self.schedule = build_schedule(recipe.schedule, recipe.optim.lr, recipe.run.steps, self.optimizer)
        if recipe.engine.compile:
            self.deepspeed.compile()

    @property
    def trainee(self) -> torch.nn.Module:
        return self.deepspeed.module

    @property
    def model(self) -> torch.nn.Module:
        return self.deepspeed.module.model

    def __call__(self, **tensors: Any) -> Any:
        return self.deepspeed(**tensors)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add this micro-batch's gradient. DeepSpeed averages over ranks where the loss law sums: hence `* world`."""
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * self.ranks.world, scale_wrt_gas=False)
        if not last:
            self.deepspeed.step()  # counts the micro-batch, changes nothing

    def update(self) -> bool:
        """Apply the step's gradient, or on all ranks nothing where it is NaN or Inf. Says whether it was applied."""
        self.deepspeed.step()
        return self.deepspeed.was_step_applied()

    def lr(self) -> float:
        """The learning rate that the next update will use, as it stands in the optimizer itself."""
        return float(self.optimizer.param_groups[0]["lr"])

    def grad_norm(self) -> Any:
        """Of the last update, before clipping."""
        if isinstance(self.optimizer, GuardedAdamW):
            return self.optimizer.grad_norm
        return self.deepspeed.get_global_grad_norm()

    def fragments(self) -> Iterator[Fragment]:
        """All weights and moments that this rank holds, under the model's own names."""
        return (f._replace(name=own_name(f.name)) for f in fragments(self.deepspeed, self.stage))

    def own_fragments(self) -> Iterator[Fragment]:
        """As `fragments`, each element on exactly one rank."""
        return (f._replace(name=own_name(f.name))
                for f in own_fragments(self.deepspeed, self.stage, self.ranks.rank, self.ranks.world))

    def optimizer_step(self) -> int:
        return max(self.ranks.gather(optimizer_step(self.deepspeed)))

    def set_optimizer_step(self, step: int) -> None:
        set_optimizer_step(self.deepspeed, step)

    def loss_scale(self) -> dict | None:
        """fp16's dynamic scale and its counters; None in other precisions."""
        scaler = getattr(self.deepspeed.optimizer, "loss_scaler", None)
        return {key: getattr(scaler, key) for key in LOSS_SCALE if hasattr(scaler, key)} or None

    def set_loss_scale(self, scale: dict | None) -> None:
        scaler = getattr(self.deepspeed.optimizer, "loss_scaler", None)
        for key, value in (scale or {}).items():
            if hasattr(scaler, key):  # another precision than before has none to set
                setattr(scaler, key, value)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's whole shape by the model's own name."""
        return {own_name(name): tuple(whole_shape(p)) for name, p in self.trainee.named_parameters()}

    @property
    def dtype(self) -> torch.dtype:
        """In which the forward pass computes."""
        return next(self.trainee.parameters()).dtype

    @property
    def parameters(self) -> int:
        """How many there are, on all ranks together."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    @property
    def holds_whole_model(self) -> bool:
        """Whether every rank has all the weights, so that one rank alone can generate."""
        return self.stage < 3

    def close(self) -> None:
        self.deepspeed.destroy()


def fill_weights(trainee: torch.nn.Module, weight_of: WeightOf, rank: int) -> None:
    """Give every parameter its weight by name, one at a time: a ZeRO-3 rank keeps its own part of each."""
    for name, parameter in trainee.named_parameters():
        shape = whole_shape(parameter)
        weight = weight_of(own_name(name), shape)
        assert weight.shape == shape, (
            f"{name}: weight of shape {tuple(weight.shape)} for a parameter of shape {tuple(shape)}")
        with torch.no_grad():
            if hasattr(parameter, "ds_tensor"):
                start, size = partition_range(parameter, rank)
                parameter.ds_tensor.data.zero_()
                parameter.ds_tensor.data[:size].copy_(weight.reshape(-1)[start:start + size])
            else:
                parameter.copy_(weight)


def whole_shape(parameter: torch.nn.Parameter) -> torch.Size:
    return parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape


def own_name(name: str) -> str:
    """The parameter's name in the model itself, without the trainee around it."""
    return name.removeprefix("model.")


def _parameters_born_partitioned(stage: int, config: dict):
    return deepspeed.zero.Init(config_dict_or_path=config) if stage == 3 else contextlib.nullcontext()


def _refuse_what_no_checkpoint_carries(trainee: torch.nn.Module) -> None:
    """Weights are saved by name from the optimizer's masters: what has none would silently be lost."""
    lost = [name for name, p in trainee.named_parameters() if not p.requires_grad]
    lost += list(trainee.state_dict(keep_vars=True).keys()
                 - dict(trainee.named_parameters(remove_duplicate=False)).keys())
    if lost:
        raise ValueError(f"these are neither trained nor saved: {', '.join(sorted(lost))}; "
                         "make buffers non-persistent, and train every parameter")

"""The DeepSpeed engine around a trainee: at stage 3 built without any rank holding the whole model; stepped safely."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Callable, Iterator

import torch

from dstrain.nn.exchange import among
from dstrain.runtime.compiled import compile_trainee, keep_compiled
from dstrain.runtime.dist import Ranks, deepspeed
from dstrain.runtime.fragments import (
    MOMENTS, Fragment, check_covered, check_layout, create_moments, flats, forget_gradients, fragments, held_range,
    optimizer_step, own_fragments, places, set_optimizer_step, whole_shape)
from dstrain.runtime.matrices import lay_out
from dstrain.runtime.muon import Muon
from dstrain.runtime.optimizer import Guarded, build_optimizer, hidden_matrices, summary
from dstrain.runtime.peers import announce_experts, check_understood, expert_peers
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
        if recipe.engine.compile:
            keep_compiled(ranks)
        self.peers = expert_peers(recipe.engine.expert_parallel, ranks)
        with among(self.peers), _parameters_born_partitioned(self.stage, config):
            trainee = build_trainee()
        announce_experts(trainee, self.peers)
        _refuse_what_no_checkpoint_carries(trainee)
        fill_weights(trainee, weights(trainee))
        self._optim = recipe.optim
        named = [(own_name(name), parameter) for name, parameter in trainee.named_parameters()]
        self.optimizer = build_optimizer(trainee.model, named, recipe.optim, self.stage == 0, self.peers.group)
        self._moments = {name: MOMENTS[group["rule"]] for group in self.optimizer.param_groups
                         for name in group["names"]}
        self.deepspeed, *_ = deepspeed.initialize(model=trainee, optimizer=self.optimizer, config=config)
        create_moments(self.deepspeed, self.stage)
        with ranks.together("checking what DeepSpeed made of the model"):
            check_understood(self.deepspeed, self.stage, self.peers, ranks)
            check_layout(self.deepspeed, self.stage)
        check_covered(self.own_fragments(), self.shapes(), ranks)
        if (scaler := self._dynamic_scaler()) is not None:
            # At its smallest scale DeepSpeed would end the run; here such a step is skipped like any other, and
            # run.max_skipped of them in a row end it.
            scaler.raise_error_at_min_scale = False
        if isinstance(self.optimizer, Muon):
            self._lay_out_matrices()
        self.schedule = build_schedule(recipe.schedule, recipe.run.steps, self.optimizer)
        if recipe.engine.compile:
            compile_trainee(self.deepspeed)

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
        applied = self.deepspeed.was_step_applied()
        if not applied:
            forget_gradients(self.deepspeed)
        return applied

    def lr(self) -> float:
        """The learning rate that the next update will use, as it stands in the optimizer itself: of AdamW's groups."""
        return float(self.optimizer.param_groups[0]["lr"])

    def lrs(self) -> dict[str, float]:
        """The same of all groups: by "adamw", and "muon" where there is one."""
        return {group["rule"]: float(group["lr"]) for group in self.optimizer.param_groups}

    def optimizer_summary(self) -> str:
        """Which rule updates what, in one line."""
        return summary(self.model, self._optim, self.trained_shapes(), self.parameters - self.trained_parameters)

    def grad_norm(self) -> Any:
        """Of the last update, before clipping."""
        if isinstance(self.optimizer, Guarded):
            return self.optimizer.grad_norm
        return self.deepspeed.get_global_grad_norm()

    def fragments(self) -> Iterator[Fragment]:
        """All weights that are trained, and moments, that this rank holds, under the model's own names."""
        return (f._replace(name=own_name(f.name)) for f in fragments(self.deepspeed, self.stage))

    def own_fragments(self) -> Iterator[Fragment]:
        """As `fragments` and all frozen weights, each element on exactly one rank."""
        return (f._replace(name=own_name(f.name))
                for f in own_fragments(self.deepspeed, self.stage, self.ranks.rank, self.ranks.world))

    def saved_fragments(self) -> Iterator[Fragment]:
        """What a checkpoint gets from this rank: its own, and from the first the counters, copied."""
        yield from self.own_fragments()
        for name, counter in counters(self.trainee) if self.ranks.first else ():
            yield Fragment(own_name(name), 0, counter.flatten().float(), {})

    def optimizer_step(self) -> int:
        return max(self.ranks.gather(optimizer_step(self.deepspeed)))

    def set_optimizer_step(self, step: int) -> None:
        set_optimizer_step(self.deepspeed, step)

    def loss_scale(self) -> dict | None:
        """fp16's scale ("cur_scale") and the counters of a dynamic one, with no wait; None in other precisions."""
        if self.dtype != torch.float16:
            return None
        scaler = self.deepspeed.optimizer.loss_scaler
        return {key: getattr(scaler, key) for key in LOSS_SCALE if hasattr(scaler, key)}

    def set_loss_scale(self, scale: dict | None) -> None:
        """Of a checkpoint; one in another precision, or with a fixed scale, has nothing to take over."""
        scaler = self._dynamic_scaler()
        if scaler is not None and scale is not None and scale.keys() == set(LOSS_SCALE):
            for key, value in scale.items():
                setattr(scaler, key, value)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's whole shape by the model's own name."""
        return {own_name(name): tuple(whole_shape(p)) for name, p in self.trainee.named_parameters()}

    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """The same of those that are not frozen."""
        return {name: shape for name, shape in self.shapes().items() if name in self._moments}

    def saved_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all that is saved under a name of the model's: parameters and counters."""
        return self.shapes() | {own_name(name): tuple(counter.shape) for name, counter in counters(self.trainee)}

    def moment_shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Of every kind of moment the parameters that have it, with their whole shapes."""
        shapes, kinds = self.trained_shapes(), dict.fromkeys(kind for kinds in self._moments.values() for kind in kinds)
        return {kind: {name: shapes[name] for name in shapes if kind in self._moments[name]} for kind in kinds}

    @property
    def dtype(self) -> torch.dtype:
        """In which the forward pass computes."""
        return next(self.trainee.parameters()).dtype

    @property
    def parameters(self) -> int:
        """How many there are, on all ranks together."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    @property
    def trained_parameters(self) -> int:
        """How many of them are not frozen."""
        return sum(math.prod(shape) for shape in self.trained_shapes().values())

    @property
    def holds_whole_model(self) -> bool:
        """Whether every rank has all the weights, so that one rank alone can generate."""
        return self.stage < 3 and self.peers.size == 1

    def close(self) -> None:
        self.deepspeed.destroy()

    def _dynamic_scaler(self) -> Any:
        scaler = getattr(self.deepspeed.optimizer, "loss_scaler", None)
        return scaler if getattr(scaler, "dynamic", False) else None

    def _lay_out_matrices(self) -> None:
        replicated, of_optimizer = self.stage == 0, flats(self.deepspeed, self.stage)
        own = (place._replace(name=own_name(place.name)) for place in places(self.deepspeed, self.stage))
        matrices = lay_out(hidden_matrices(self.model, self._optim), self.shapes(), own, of_optimizer, self.ranks,
                           replicated)
        self.optimizer.lay_out(matrices, of_optimizer, self.ranks, replicated)


def fill_weights(trainee: torch.nn.Module, weight_of: WeightOf) -> None:
    """Give every parameter, and counter, its values by name, one after the other: a rank keeps its own part."""
    for name, parameter in (*trainee.named_parameters(), *counters(trainee)):
        shape = whole_shape(parameter)
        weight = weight_of(own_name(name), shape)
        assert weight.shape == shape, (
            f"{name}: weight of shape {tuple(weight.shape)} for a parameter of shape {tuple(shape)}")
        with torch.no_grad():
            start, size = held_range(parameter)
            part = weight.reshape(-1)[start:start + size]
            if hasattr(parameter, "ds_tensor"):
                parameter.ds_tensor.data.zero_()
                parameter.ds_tensor.data[:size].copy_(part)
            else:
                parameter.copy_(part.view(parameter.shape))


def counters(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Persistent buffers of whole numbers: what a model counts from step to step, the same on all ranks. They are saved
    as fp32, which is exact below 2^24."""
    kept = module.state_dict(keep_vars=True).keys()
    return [(name, buffer) for name, buffer in module.named_buffers()
            if name in kept and not buffer.is_floating_point()]


def own_name(name: str) -> str:
    """The parameter's name in the model itself, without the trainee around it."""
    return name.removeprefix("model.")


def _parameters_born_partitioned(stage: int, config: dict):
    return deepspeed.zero.Init(config_dict_or_path=config) if stage == 3 else contextlib.nullcontext()


def _refuse_what_no_checkpoint_carries(trainee: torch.nn.Module) -> None:
    """Parameters are saved by name, trained or frozen, and so are counters: anything else would silently be lost."""
    lost = list(trainee.state_dict(keep_vars=True).keys()
                - dict(trainee.named_parameters(remove_duplicate=False)).keys() - dict(counters(trainee)).keys())
    if lost:
        raise ValueError(f"these are neither trained nor saved: {', '.join(sorted(lost))}; "
                         "make buffers non-persistent, or whole numbers, or frozen parameters")
    if not any(parameter.requires_grad for parameter in trainee.parameters()):
        raise ValueError("every parameter of the model is frozen, so there is nothing to train; leave "
                         "requires_grad of some of them on")

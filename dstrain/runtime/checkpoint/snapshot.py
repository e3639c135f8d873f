"""What a rank writes of a checkpoint, as it is at one moment: in memory of its own, so that the training may go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, NamedTuple

import torch

from dstrain.runtime.checkpoint.manifest import FORMAT, WEIGHTS_FILE, moment_file
from dstrain.runtime.engine import Engine
from dstrain.runtime.fragments import Fragment

CHUNK = 2**26
"""fp32 numbers in one stretch of buffer, 256 MiB: PyTorch rounds pinned memory up to powers of two"""


class Part(NamedTuple):
    """Elements start .. of the flattened tensor `name` in a tensor file."""

    file: str
    name: str
    start: int
    values: torch.Tensor


@dataclass(frozen=True)
class Snapshot:
    """What this rank writes: its parts of all tensors, and what the first rank writes for all."""

    step: int
    state: dict
    shapes: dict[str, dict[str, tuple[int, ...]]]
    """of every tensor file its tensors, whole"""
    moments: list[str]
    parts: list[Part]
    about: dict
    """for the manifest: recipe, shape, versions"""


def take(engine: Engine, state: dict, about: dict, buffers: Buffers | None) -> Snapshot:
    """All ranks call it together. Without buffers the parts are the engine's own: it must not train until written."""
    moments = engine.moment_shapes()
    shapes = {WEIGHTS_FILE: engine.saved_shapes()} | {moment_file(key): of_key for key, of_key in moments.items()}
    with engine.ranks.together(f"copying what is saved of step {state['step']}"):
        own = [Part(file, fragment.name, fragment.start, values) for fragment in engine.saved_fragments()
               for file, values in _tensors(fragment)]
        parts = own if buffers is None else buffers.hold(own)
    state = {"format": FORMAT, **state, "optimizer_step": engine.optimizer_step(), "loss_scale": engine.loss_scale()}
    return Snapshot(state["step"], state, shapes, list(moments), parts, about)


class Buffers:
    """The CPU's memory for one snapshot of an engine, taken at the start and kept: what is too much shows then, and
    not at the first save. Pinned where the device is a GPU, so that it copies at full speed."""

    def __init__(self, engine: Engine):
        self._on_gpu = engine.ranks.device.type == "cuda"
        numbers = sum(values.numel() for fragment in engine.saved_fragments() for _, values in _tensors(fragment))
        sizes = [CHUNK] * (numbers // CHUNK) + [numbers % CHUNK]
        self._chunks = [torch.empty(size, pin_memory=self._on_gpu).zero_() for size in sizes]

    def hold(self, parts: list[Part]) -> list[Part]:
        """Copies of these, instead of those that were held before; a part may come in two, across a chunk's end."""
        free = iter(self._chunks)
        chunk = next(free)
        held = []
        for file, name, start, values in parts:
            values = values.detach().reshape(-1)
            while values.numel():
                if not chunk.numel():
                    chunk = next(free)
                size = min(values.numel(), chunk.numel())
                held.append(Part(file, name, start, chunk[:size].copy_(values[:size], non_blocking=self._on_gpu)))
                start, values, chunk = start + size, values[size:], chunk[size:]
        if self._on_gpu:
            torch.cuda.synchronize()  # once: the copies have arrived
        return held


def _tensors(fragment: Fragment) -> Iterator[tuple[str, torch.Tensor]]:
    """By the file that each belongs to."""
    yield WEIGHTS_FILE, fragment.weight
    for key, moment in fragment.moments.items():
        yield moment_file(key), moment

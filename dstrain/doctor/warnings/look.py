"""What all figures are taken from, looked at once: the first steps' rows at full size, the model's size, one pass."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.data.hashing import wrap_int64
from dstrain.doctor.case import Case
from dstrain.doctor.finding import NotProven
from dstrain.doctor.on_device import on
from dstrain.doctor.on_ranks import on_ranks
from dstrain.doctor.recipe_subject import parameters_of, subject_of
from dstrain.doctor.subject import Roles, Subject, TensorDict
from dstrain.guard.machine import GIB, Memory
from dstrain.train.announce import expected_seconds
from dstrain.train.family import Family

MOST_STEPS, MOST_SECONDS = 8, 3.0
QUICK_S = 3.0
PASSES = 3


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of the full-size model over one micro-batch."""

    seconds: float
    positions: int
    saved_bytes: int
    """activations that its backward pass needs"""


@dataclass(frozen=True)
class Look:
    recipe: Recipe
    family: Family
    config: dict[str, Any]
    """the engine's, for `world` ranks"""
    world: int
    """of GPUs here, or 1"""
    run_folder: Path
    parameters: int
    totals: dict[str, int]
    """sums over the first steps of what the feed says of each"""
    steps: int
    words: int
    """runs of letters between spaces, in the text of their targets"""
    bytes_a_target: float
    rows_hash: str
    """of those steps: the data sample"""
    feed_s: float
    """for a step's rows, once the feed runs"""
    step_s: float
    """for a step on this machine, guessed as a run's first screen does: by what matrix products run at"""
    full_pass: Pass | None = None

    @property
    def targets(self) -> float:
        """Scored in the whole run, if its steps are like the first ones."""
        return self.totals["scored"] / self.steps * self.recipe.run.steps


def look_at(recipe: Recipe, case: Case, run_folder: Path) -> Look:
    """At the recipe in full, by the way in which a run on one rank would read and build it."""
    family, tokenizer, world = case.family, case.tokenizer(), max(1, torch.cuda.device_count())
    full_pass = _full_pass(recipe, case, tokenizer)
    config = engine_json(on_ranks(recipe, world), world, "cuda")  # the memory of fp16 is asked for on a login node, too
    parameters = parameters_of(recipe, family, tokenizer)
    totals, steps, *of_rows = _rows(recipe, family, tokenizer)
    flops = totals["scored"] / steps * family.flops_a_target(recipe, parameters)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step_s = expected_seconds(flops, _dtype(config, here), here, world)
    return Look(recipe, family, config, world, run_folder, parameters, totals, steps, *of_rows, step_s, full_pass)


def _dtype(config: dict[str, Any], device: torch.device) -> torch.dtype:
    """Of the matrix products; no CPU trains in fp16."""
    if config["bf16"]["enabled"] or config["torch_autocast"]["enabled"]:
        return torch.bfloat16
    return torch.float16 if config["fp16"]["enabled"] and device.type == "cuda" else torch.float32


def _rows(recipe: Recipe, family: Family, tokenizer: Any) -> tuple[dict[str, int], int, int, float, str, float]:
    """Totals, steps, words, bytes a target, hash and seconds a step of the first steps' rows."""
    totals: dict[str, int] = {}
    rows, words, seen_bytes, times, began = 0, 0, 0, [], time.perf_counter()
    bytes_of_token = torch.as_tensor(tokenizer.token_bytes())
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        while len(times) < 2 or len(times) < MOST_STEPS and time.perf_counter() - began < MOST_SECONDS:
            step = next(feed)
            times.append(time.perf_counter())
            rows = wrap_int64(rows * 31 + step.rows_hash)
            for key, value in step.stats.items():
                if isinstance(value, int):
                    totals[key] = totals.get(key, 0) + value
            for batch in step.micro_batches:
                for labels_T in batch.labels_BT:
                    texts = _texts(labels_T[labels_T >= 0], bytes_of_token)
                    seen_bytes += sum(int(bytes_of_token[text].sum()) for text in texts)
                    words += sum(len(tokenizer.decode(text.tolist()).split()) for text in texts)
    feed_s = (times[-1] - times[0]) / (len(times) - 1)
    return totals, len(times), words, seen_bytes / max(1, totals["scored"]), f"{rows & (2**64 - 1):016x}", feed_s


def _texts(targets: torch.Tensor, bytes_of_token: torch.Tensor) -> list[torch.Tensor]:
    """Runs of tokens that spell something, between ends of documents and the like."""
    pieces = torch.tensor_split(targets, (bytes_of_token[targets] == 0).nonzero().flatten())
    return [spelled for piece in pieces if (spelled := piece[bytes_of_token[piece] > 0]).numel()]


def _full_pass(recipe: Recipe, case: Case, tokenizer: Any) -> Pass | None:
    """On a whole micro-batch where that is quick and fits here, else on the row or two of the doctor's own subject."""
    try:
        small = passed(on(case.device, case.full_subject()))
    except NotProven:  # the doctor does not take this model at full size
        return None
    with closing(case.family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        batch = next(feed).micro_batches[0]
    times = _positions(batch.inputs(), Roles(**case.family.anatomy.roles(recipe))) / small.positions
    room = (Memory().left_gib() or 0) * GIB / 4
    if times <= 1 or times * small.seconds > QUICK_S or times * small.saved_bytes > room:
        return small
    return passed(on(case.device, subject_of(recipe, case.family, tokenizer, batch)))


def passed(subject: Subject) -> Pass:
    """The fastest of three: the first one warms up, and others use this machine, too."""
    seconds, held = zip(*(_pass(subject) for _ in range(PASSES)))
    return Pass(min(seconds), _positions(subject.batch, subject.roles), held[-1])


def _positions(batch: TensorDict, roles: Roles) -> int:
    """As a recipe counts them: of what is read and what is written the larger."""
    read = sum(batch[name].numel() for name in (roles.source, roles.context) if name is not None)
    return max(batch[roles.ids].numel(), read)


def _pass(subject: Subject) -> tuple[float, int]:
    """Seconds, and bytes that the backward pass needs."""
    module, held = subject.module.train(), {}
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            held[place] = tensor.untyped_storage().nbytes()
        return tensor

    began = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = subject.run(module, subject.batch).loss
    loss.backward()
    float(loss.detach())  # waits for the device
    seconds = time.perf_counter() - began
    module.zero_grad(set_to_none=True)
    return seconds, sum(held.values())

"""What a run says before its first step, and what it freezes of itself into the run folder."""

from __future__ import annotations

import platform
import socket
import sys
import time
from importlib import metadata
from typing import Any, Callable

import torch

from dstrain import __version__
from dstrain.config.schema import Recipe
from dstrain.config.shape import shape_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train.family import Family
from dstrain.train.progress import duration
from dstrain.train.run_folder import RunFolder, write_json
from dstrain.train.state import RunState, recipe_text

PACKAGES = ("torch", "deepspeed", "tiktoken", "datasets", "numpy", "tensorboard")


def say_run(say: Callable[[str], None], recipe: Recipe, family: Family, tokenizer: Any, engine: Engine, first: Any,
            folder: RunFolder, state: RunState, ranks: Ranks) -> None:
    """Model, data, shape: a user should see a wrong number here, not after a night."""
    batch, shape = recipe.batch, shape_of(recipe, ranks.world)
    parameters = engine.parameters
    tokens = recipe.run.steps * batch.rows * batch.length
    stats = first.stats
    say(f"run        {folder.path}" + (f", from step {state.step} on" if state.step else ""))
    say(f"model      {family.name}, {parameters / 1e6:.{1 if parameters >= 1e6 else 3}f}M parameters ({parameters:,})")
    say(f"data       {tokens:,} positions in {recipe.run.steps:,} steps, {tokens / parameters:.2g} per parameter; "
        f"{_epochs(recipe, family, tokens, _bytes_a_target(first, tokenizer))}")
    padding = 1 - stats["scored"] / max(1, stats["positions"])
    say(f"           first step: {100 * padding:.1f} % of the positions are padding, "
        f"{stats['documents']} documents begin, {stats['cut']} of them go on in a later row")
    say(f"step       {batch.rows} rows x {batch.length} = {batch.rows * batch.length:,} positions: "
        f"{shape.world} rank(s) x {shape.accumulation} micro-batch(es) of {shape.micro_rows} rows "
        f"(train_batch_size {shape.world * shape.accumulation * shape.micro_rows})")
    if recipe.log.samples and recipe.data.valid and not engine.holds_whole_model:
        say("samples    none: at ZeRO stage 3 no rank holds the whole model; use `dstrain generate` on a checkpoint")
    say(f"engine     {recipe.engine.config}: ZeRO stage {engine.stage} on {ranks.device.type}, "
        f"{torch.get_num_threads()} thread(s) a rank; "
        f"lr {recipe.optim.lr:g} by {recipe.schedule.name}, warm-up {recipe.schedule.warmup_steps} steps")
    steps = recipe.run.steps - state.step
    flops = steps * batch.rows * batch.length * family.flops_a_target(recipe, parameters)
    say(f"time       roughly {duration(expected_seconds(flops, engine.dtype, ranks))} for {steps:,} steps, "
        f"guessed from what matrix products run at here; the progress line measures it")


def expected_seconds(flops: float, dtype: torch.dtype, ranks: Ranks) -> float:
    """Time for so much work if all ranks do it at 0.6 of this rank's rate for large matrix products."""
    size = 4096 if ranks.device.type == "cuda" else 768
    matrix = torch.ones(size, size, dtype=dtype, device=ranks.device)
    took_s = []
    for _ in range(4):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading the result waits for the device
        took_s.append(time.perf_counter() - began)
    return flops / (0.6 * ranks.world * 2 * size**3 / min(took_s))


def freeze(folder: RunFolder, recipe: Recipe, config: dict, ranks: Ranks) -> None:
    """recipe.yaml, ds_config.json, environment.json: what ran, resolved."""
    folder.recipe.write_text(recipe_text(recipe))
    write_json(folder.ds_config, config)
    write_json(folder.environment, {
        "dstrain": __version__, "python": sys.version.split()[0], "platform": platform.platform(),
        "host": socket.gethostname(), "world": ranks.world, "device": str(ranks.device.type),
        "threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv})


def _epochs(recipe: Recipe, family: Family, tokens: int, bytes_a_target: float) -> str:
    text_bytes = family.text_bytes(recipe)
    if not text_bytes or not bytes_a_target:
        return "epochs unknown until the data was read once"
    return f"about {tokens * bytes_a_target / text_bytes:.2f} epochs of {text_bytes / 1e6:,.1f} MB text"


def _bytes_a_target(first: Any, tokenizer: Any) -> float:
    """UTF-8 bytes that a target of the first step stands for, on average."""
    targets = torch.cat([batch.labels_BT[batch.labels_BT >= 0] for batch in first.micro_batches])
    return float(torch.as_tensor(tokenizer.token_bytes())[targets].double().mean()) if len(targets) else 0.0

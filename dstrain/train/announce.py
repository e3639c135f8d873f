"""What a run says before its first step, and what it freezes of itself into the run folder."""

from __future__ import annotations

import platform
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dstrain import __version__
from dstrain.config.certificate import FILE, why_not_proven
from dstrain.config.offload import offload_in_words
from dstrain.config.schema import Recipe
from dstrain.config.shape import shape_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.health import in_a_line
from dstrain.runtime.rank_report import version_of
from dstrain.train.progress import duration
from dstrain.train.run import Run
from dstrain.train.run_folder import RunFolder, replace, write_json
from dstrain.train.state import recipe_text

PACKAGES = ("torch", "deepspeed", "tiktoken", "datasets", "numpy", "tensorboard", "sacrebleu")


def say_run(run: Run, first: Any) -> None:
    """Model, data, shape: a user should see a wrong number here, not after a night. All ranks call it together."""
    say, recipe, state, engine, world = run.progress.say, run.recipe, run.state, run.engine, run.ranks.world
    schedule, shape, parameters = recipe.schedule, shape_of(recipe, world), engine.parameters
    stats = _of_all_ranks(first, run)
    targets, steps_left = stats["scored"] * recipe.run.steps, recipe.run.steps - state.step

    say(f"run        {run.folder.path}" + (f", from step {state.step} on" if state.step else ""))
    say(f"model      {run.family.name}, {parameters / 1e6:.{1 if parameters >= 1e6 else 3}f}M parameters "
        f"({parameters:,}){_trained_in_words(engine)}"
        + "".join(f"\n{'':<11}{line}" for line in run.family.model_in_words(recipe, parameters)))
    epochs = _epochs(run, targets, stats["bytes"] / max(1, stats["scored"]))
    say(f"data       {'about ' * (shape.rows is None)}{targets:,} targets in {recipe.run.steps:,} steps, "
        f"{targets / parameters:.2g} per parameter; {epochs}")
    say(f"           step {first.number}: " + f"\n{'':<11}".join(run.family.data_in_words(recipe, stats)))
    say(f"step       {run.family.step_in_words(recipe, shape)}")
    rules = engine.optimizer_summary().replace("; ", f"\n{'':<11}")
    say(f"optimizer  {rules}; by {schedule.name}, warm-up {schedule.warmup_steps} steps")
    say(f"engine     {recipe.engine.config}: ZeRO stage {engine.stage} on {run.ranks.device.type}, "
        f"{torch.get_num_threads()} thread(s) a rank" + _experts_in_words(recipe))
    health = in_a_line(run.ranks.health)
    if health is not None:
        say(f"ranks      {health}")
    if run.ranks.first and (unproven := unproven_in_words(run.folder.path, recipe, bool(state.step))) is not None:
        say(f"doctor     {unproven}")
    offload = offload_in_words(run.config, parameters, world)
    if offload is not None:
        say(f"offload    {offload}")
    if recipe.valid.patience is not None:
        say(f"early end  after {recipe.valid.patience} validation(s) in a row, one every {recipe.valid.every} steps, "
            f"without a smaller loss" + (f"; {state.without_better} so far" if state.without_better else ""))
    if recipe.log.samples and recipe.data.valid and not engine.holds_whole_model:
        why = "each layer is gathered" if engine.stage == 3 else "experts on other ranks are asked"
        say(f"samples    written by all ranks together, which is slow: {why} for each token; none with log.samples=0")
    flops = steps_left * stats["scored"] * run.family.flops_a_target(recipe, parameters)
    left = duration(expected_seconds(flops, engine.dtype, run.ranks.device, world))
    say(f"time       roughly {left} for {steps_left:,} steps, guessed from what matrix products run at here, "
        "without validations; the progress line measures it")


def _trained_in_words(engine: Engine) -> str:
    trained = engine.trained_parameters
    return "" if trained == engine.parameters else (f", {trained / 1e6:.{1 if trained >= 1e6 else 3}f}M of them "
                                                    f"trained ({trained:,}), the others stay as they are")


def _experts_in_words(recipe: Recipe) -> str:
    peers = recipe.engine.expert_parallel
    return "" if peers == 1 else f"; every {peers} ranks share out the experts among them"


def unproven_in_words(folder: Path, recipe: Recipe, goes_on: bool) -> str | None:
    """That the recipe is not proven as it is now. A run that goes on without any certificate was told when it began."""
    if goes_on and not (folder / FILE).exists():
        return None
    why = why_not_proven(folder, recipe)
    return None if why is None else f"not proven: {why}; `dstrain doctor` with the same recipe proves it"


def expected_seconds(flops: float, dtype: torch.dtype, device: torch.device, world: int) -> float:
    """Time for so much work if all ranks do it at 0.6 of this rank's rate for large matrix products."""
    size = 4096 if device.type == "cuda" else 768
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    took_s = []
    for _ in range(4):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading the result waits for the device
        took_s.append(time.perf_counter() - began)
    return flops / (0.6 * world * 2 * size**3 / min(took_s))


def freeze(folder: RunFolder, recipe: Recipe, config: dict, ranks: Ranks) -> None:
    """recipe.yaml, ds_config.json, environment.json: what ran, resolved."""
    replace(folder.recipe, recipe_text(recipe))
    write_json(folder.ds_config, config)
    write_json(folder.environment, {
        "dstrain": __version__, "python": sys.version.split()[0], "platform": platform.platform(),
        "host": socket.gethostname(), "world": ranks.world, "device": str(ranks.device.type),
        "threads": torch.get_num_threads(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv, **ranks.health})


def about(recipe: Recipe, config: dict, ranks: Ranks) -> dict:
    """What a checkpoint's manifest says of the run that wrote it."""
    shape = shape_of(recipe, ranks.world)
    precisions = {"bf16": "bf16", "fp16": "fp16", "torch_autocast": "autocast"}
    precision = next((word for key, word in precisions.items() if config.get(key, {}).get("enabled")), "fp32")
    return {"recipe": "recipe.yaml",
            "shape": {"ranks": ranks.world, "zero_stage": config["zero_optimization"]["stage"], "precision": precision,
                      "accumulation": shape.accumulation,
                      **({"micro_rows": shape.micro_rows} if shape.micro_rows else
                         {"micro_tokens": shape.micro_tokens})},
            "versions": {"dstrain": __version__, "python": sys.version.split()[0],
                         **{name: version_of(name) for name in PACKAGES}}}


def _of_all_ranks(first: Any, run: Run) -> dict[str, int]:
    """What the first step's rows hold, and the UTF-8 bytes that their targets stand for."""
    bytes_of_token = torch.as_tensor(run.tokenizer.token_bytes())
    targets = torch.cat([batch.labels_BT[batch.labels_BT >= 0] for batch in first.micro_batches])
    own = {key: value for key, value in first.stats.items() if isinstance(value, int)}
    of_ranks = run.ranks.gather(own | {"bytes": int(bytes_of_token[targets].sum())})
    return {key: sum(of_rank[key] for of_rank in of_ranks) for key in of_ranks[0]}


def _epochs(run: Run, targets: float, bytes_a_target: float) -> str:
    text_bytes = run.family.text_bytes(run.recipe)
    if not text_bytes or not bytes_a_target:
        return "epochs unknown until the data was read once"
    return f"about {targets * bytes_a_target / text_bytes:.2f} epochs of {_size(text_bytes)} text"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes of"

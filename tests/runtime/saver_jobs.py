"""Trainings whose writers are slow, fail, or are left alone; looked up by name in the ranks' own processes."""

from __future__ import annotations

import contextlib
import errno
import io
import threading
import time
from pathlib import Path
from typing import Iterator

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.runtime.checkpoint import disk, saver
from dstrain.runtime.dist import Ranks
from dstrain.train import trainer


def trains(ranks: Ranks, recipe: Recipe, ds_config: str, fault: str | None = None, rank: int = 0,
           raises: type | None = None, at_step: int = 0) -> dict:
    """A whole training; `fault` befalls the writer of one rank, `raises` all ranks before a step. How it went."""
    kept = {"write_at": disk.write_at, "train_step": trainer.train_step, "take": saver.take}
    steps, saves, printed = [], [], io.StringIO()

    def write_at(file, offset, data):
        if fault == "slow":
            time.sleep(0.02)
        if fault == "full" and ranks.rank == rank and len(saves) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        kept["write_at"](file, offset, data)

    def train_step(engine, objective, batches, rows_hash, step, *more, **named):
        if raises is not None and step == at_step:
            raise raises("before the step")
        if fault == "full" and step == 7:
            _wait_for_writer()
        steps.append((step, any(thread.name == "saver" for thread in threading.enumerate())))
        return kept["train_step"](engine, objective, batches, rows_hash, step, *more, **named)

    def take(engine, state, *more):
        if fault == "no copy" and ranks.rank == rank and len(saves) == 1:
            named = engine.own_fragments
            engine.own_fragments = _broken
            try:
                return kept["take"](engine, state, *more)
            finally:
                engine.own_fragments = named
        saves.append(state["step"])
        return kept["take"](engine, state, *more)

    disk.write_at, trainer.train_step, saver.take = write_at, train_step, take
    began, error, ended = time.monotonic(), None, None
    try:
        with contextlib.redirect_stdout(printed):
            config = engine_json(recipe, ranks.world, "cpu", ds_config)
            trainer.train(recipe, family_of(recipe), config, ranks)
    except BaseException as caught:  # told to the test, whatever it is
        error = caught
    finally:
        ended = time.monotonic()
        disk.write_at, trainer.train_step, saver.take = kept["write_at"], kept["train_step"], kept["take"]
    return {"error": error and (type(error).__name__, str(error)), "steps": [step for step, _ in steps],
            "beside_a_writer": [step for step, beside in steps if beside], "saves": saves, "took_s": ended - began,
            "saved": [line for line in printed.getvalue().splitlines() if line.startswith("saved")],
            "writers_left": sum(thread.name == "saver" for thread in threading.enumerate())}


def closes(ranks: Ranks, recipe: Recipe, ds_config: str, folder: Path, how: type) -> dict:
    """Saves once with a slow writer and ends at once, as by an error of the type `how`."""
    engine = _engine(ranks, recipe, ds_config)
    inner, made = disk.write_at, []
    disk.write_at = lambda file, offset, data: (time.sleep(0.1), inner(file, offset, data))
    lines: list[str] = []
    try:
        made.append(saver.Saver(folder, engine, ranks, 3, True, {}, lines.append))
        made[0].save({"step": 2}, lambda where: disk.write_file(where / "recipe.yaml", b""), is_best=False)
        raise how("the training")
    except how:
        began = time.monotonic()
        made[0].close()
        closed_s = time.monotonic() - began
    finally:
        disk.write_at = inner
        engine.close()
    return {"closed_s": closed_s, "saved": lines, "last_save_s": made[0].last_save_s, "failed": made[0].failed,
            "writers_left": sum(thread.name == "saver" for thread in threading.enumerate())}


def _engine(ranks: Ranks, recipe: Recipe, ds_config: str):
    from dstrain.data.tokenizers.tokenizer import load_tokenizer
    from dstrain.runtime.engine import Engine

    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    return Engine(lambda: family.build_trainee(recipe, tokenizer),
                  lambda trainee: lambda name, shape: family.initial_weight(trainee.model, name, shape, 1),
                  recipe, engine_json(recipe, ranks.world, "cpu", ds_config), ranks)


def _wait_for_writer() -> None:
    for thread in threading.enumerate():
        if thread.name == "saver":
            thread.join(60)


def _broken() -> Iterator:
    raise RuntimeError("out of memory while copying")
    yield

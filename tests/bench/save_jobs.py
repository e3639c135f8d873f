"""What the ranks of save.py do; looked up by name in their own processes."""

from __future__ import annotations

import os
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable

from packed import AnyVocabulary, packed_step
from training import DstrainLoop, bench_recipe

from dstrain.config.engine_json import engine_json
from dstrain.config.shape import shape_of
from dstrain.families import family_of
from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.folder import newest_good
from dstrain.runtime.checkpoint.loading import load
from dstrain.runtime.checkpoint.manifest import WEIGHTS_FILE, Piece, hashes, moment_file
from dstrain.runtime.checkpoint.restored import check_restored
from dstrain.runtime.checkpoint.saver import Saver
from dstrain.runtime.checkpoint.saving import write
from dstrain.runtime.checkpoint.snapshot import take
from dstrain.runtime.checkpoint.tensor_file import create, write_ranges
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine, own_name
from dstrain.train.state import RunState

VOCAB = 50257


def stalls(ranks: Ranks, preset: str, rows: int, length: int, rounds: int, folder: Path) -> list[dict]:
    """Saves beside the training and in its place, in turns; of each what it cost the training."""
    recipe = bench_recipe(preset, rows, max(1, rows // ranks.world // 2), length)
    loop = DstrainLoop(recipe, "zero1_fp32", VOCAB, ranks)
    batches = packed_step(shape_of(recipe, ranks.world), rows // ranks.world, length, VOCAB, seed=ranks.rank)
    if ranks.first:
        folder.mkdir()
    savers = {"beside": Saver(folder / "beside", loop.engine, ranks, 1, True, {}, lambda line: None),
              "waiting": Saver(folder / "waiting", loop.engine, ranks, 1, False, {}, lambda line: None)}
    number, seen = 0, []

    def step() -> float:
        nonlocal number
        number, began = number + 1, time.perf_counter()
        loop.step(number, batches)
        return time.perf_counter() - began

    for _ in range(3):
        step()
    for round_number in range(rounds + 1):
        for name, saver in savers.items():
            quiet_s = [step() for _ in range(4)]
            began = time.perf_counter()
            saver.save({"step": number}, _side_files, is_best=False)
            stall_s, beside_s = time.perf_counter() - began, []
            while any(ranks.gather(_under_way())):
                beside_s.append(step())
            saver.finish()
            seen.append({"how": name, "round": round_number, "quiet_s": quiet_s, "stall_s": stall_s,
                         "beside_s": beside_s, "save_s": saver.last_save_s})
    loop.close()
    return [case for case in seen if case["round"] > 0]  # the first saves find no memory and no files


def gathers(ranks: Ranks, preset: str, stage: int, rounds: int, folder: Path) -> list[dict]:
    """Each rank its own fragments, against deepspeed's accessors and a first rank that writes all: seconds, peaks."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    recipe = bench_recipe(preset, 2 * ranks.world, 2, 32)
    loop = DstrainLoop(recipe, f"zero{stage}_fp32", VOCAB, ranks)
    loop.step(1, packed_step(shape_of(recipe, ranks.world), 2, 32, VOCAB, seed=1))  # the accessors fail before it
    engine = loop.engine
    files = {WEIGHTS_FILE: engine.shapes()} | {moment_file(key): of for key, of in engine.moment_shapes().items()}

    def by_fragments() -> None:
        parts = take(engine, _state(1), {}, None).parts
        for file in files:
            write_ranges(folder / file, ((part.name, part.start, part.values) for part in parts if part.file == file))

    def gathered() -> None:
        whole_of = [safe_get_full_fp32_param, *(partial(safe_get_full_optimizer_state, optim_state_key=key)
                                                for key in engine.moment_shapes())]
        for file, whole in zip(files, whole_of, strict=True):  # one tensor at a time: the kindest way
            tensors = ((own_name(name), 0, whole(p).reshape(-1)) for name, p in engine.trainee.named_parameters())
            if ranks.first:
                write_ranges(folder / file, tensors)
            else:
                for _ in tensors:  # every rank takes part in every gathering
                    pass

    seen = []
    for number in range(rounds + 1):
        ways = {"own fragments": by_fragments, "gathered": gathered}
        for name in sorted(ways, reverse=bool(number % 2)):
            if ranks.first:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                for file, shapes in files.items():
                    create(folder / file, shapes)
            ranks.gather(None)
            took_s, peak_bytes = _measured(lambda: (ways[name](), ranks.gather(None)))
            seen.append({"how": name, "round": number, "took_s": took_s, "peak_bytes": peak_bytes})
    loop.close()
    return [case for case in seen if case["round"] > 0]


def loads(ranks: Ranks, preset: str, rounds: int, folder: Path) -> list[dict]:
    """From looking for the newest checkpoint to an engine that holds it: seconds of each part, from a cold cache."""
    engine = _engine(ranks, preset, 1)
    where = lambda made: disk.write_file(made / "recipe.yaml", b"")  # noqa: E731
    saved = write(folder, take(engine, _state(2), {}, None), where, ranks)
    engine.close()
    del engine
    seen = []
    for number in range(rounds + 1):
        for cache in ("cold", "warm"):
            if cache == "cold":
                _forget(saved)
            ranks.gather(None)
            times, cpu_s = [time.perf_counter()], [time.process_time()]
            assert newest_good(folder, ranks, print) == saved
            times.append(time.perf_counter())
            cpu_s.append(time.process_time())
            loaded = load(saved)
            engine = _engine(ranks, preset, 1, lambda trainee: loaded.weight_of)
            times.append(time.perf_counter())
            loaded.restore(engine)
            times.append(time.perf_counter())
            check_restored(loaded, engine, bench_recipe(preset, 8, 4, 256))
            ranks.gather(None)
            times.append(time.perf_counter())
            cpu_s.append(time.process_time())
            engine.close()
            del engine, loaded
            parts = ("verify_s", "build_s", "restore_s", "compare_s")
            seen.append({"cache": cache, "round": number, "total_s": times[-1] - times[0],
                         "share_of_cpu": (cpu_s[1] - cpu_s[0]) / (cpu_s[2] - cpu_s[0])}
                        | {part: after - before for part, before, after in zip(parts, times, times[1:])})
    size = sum(path.stat().st_size for path in saved.iterdir())
    return [{**case, "bytes": size} for case in seen if case["round"] > 0]


def hashing_speed(ranks: Ranks, size: int, folder: Path) -> float:
    """Bytes a second of one thread, from a warm cache."""
    if not ranks.first:
        return 0.0
    folder.mkdir(exist_ok=True)
    (folder / "zeros").write_bytes(bytes(size))
    began = time.perf_counter()
    list(hashes(folder, [Piece("zeros", 0, size)]))
    return size / (time.perf_counter() - began)


def _engine(ranks: Ranks, preset: str, stage: int, weights: Callable | None = None) -> Engine:
    recipe = bench_recipe(preset, 8, 4, 256)
    family = family_of(recipe)

    def fresh(trainee):
        return lambda name, shape: family.initial_weight(trainee.model, name, shape, 1)

    return Engine(lambda: family.build_trainee(recipe, AnyVocabulary(VOCAB)), weights or fresh, recipe,
                  engine_json(recipe, ranks.world, "cpu", f"zero{stage}_fp32"), ranks)


def _state(step: int) -> dict:
    return {**RunState.begin().to_json(), "step": step}


def _side_files(folder: Path) -> None:
    disk.write_file(folder / "recipe.yaml", b"")


def _under_way() -> bool:
    return any(thread.name == "saver" for thread in threading.enumerate())


def _measured(act: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and by how much the resident memory rose at its highest."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, began = _resident("VmRSS"), time.perf_counter()
    act()
    return time.perf_counter() - began, _resident("VmHWM") - before


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which + ":"))


def _forget(folder: Path) -> None:
    """Out of the page cache, as after a reboot."""
    for path in folder.rglob("*"):
        if path.is_file():
            with disk.opened(path) as file:
                disk.sync_file(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

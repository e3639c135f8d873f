"""Tokens per second of one preset in bf16, through DeepSpeed and in the best bare loop, as it is and compiled.

All loops take turns of a few steps, so that a clock that falls when the GPU gets warm is the same for all. The cost of
DeepSpeed and dstrain is the time over the fastest bare loop's, uncompiled to uncompiled and compiled to compiled.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from bare import bare_loops
from frame import Here, Outcome, judge
from packed import packed_step
from rates import matrix_flops
from rounds import Spread, fastest, ratio, take_turns
from training import DstrainLoop, bench_recipe, trainee_builder

from dstrain.config.shape import shape_of
from dstrain.families import family_of
from dstrain.runtime.peak import peak_flops

VOCABULARY = 50257
SHAPES = {"tiny": (128, 256), "small": (64, 512), "medium": (32, 1024)}
"""rows and length: 32,768 positions a step"""
STEPS_A_TURN, ROUNDS = 4, 8
COST = 0.05
SAME_LOSS = 2e-2


def show(here: Here, preset: str) -> Outcome:
    (rows, length), vocabulary = ((4, 16), 257) if here.rehearsing else (SHAPES[preset], VOCABULARY)
    recipe = bench_recipe(preset, rows, rows, length, _small_model() if here.rehearsing else [])
    batches = [[batch.pin() if here.device.type == "cuda" else batch for batch in
                packed_step(shape_of(recipe, 1), rows, length, vocabulary, seed)] for seed in range(2)]
    bench = _Bench(here, recipe, vocabulary, batches)
    figures = {"preset": preset, "rows": rows, "length": length, "vocabulary": vocabulary,
               "measured_matrix_tflops": bench.matrix / 1e12, "peak_tflops": (bench.peak or 0.0) / 1e12}

    build = trainee_builder(recipe, vocabulary, here.device)
    for name, make in bare_loops(build, recipe, here.device, "bf16").items():
        bench.add(name, make, is_bare=True)
    for stage in (1,) if here.rehearsing else (1, 2, 3):
        bench.add(f"ZeRO-{stage}", lambda: DstrainLoop(recipe, f"zero{stage}_bf16", vocabulary, here.ranks))
    figures["as it is"], best, off = bench.measure()
    here.note(figures)

    if not here.rehearsing:
        bench.clear()
        compiled = bench_recipe(preset, rows, rows, length, ["engine.compile=true"])
        bench.add(best, lambda: _compiled(bare_loops(build, recipe, here.device, "bf16")[best]()), is_bare=True)
        bench.add("ZeRO-1", lambda: DstrainLoop(compiled, "zero1_bf16", vocabulary, here.ranks))
        figures["compiled"], _, compiled_off = bench.measure()
        off = max(off, compiled_off)
    cost = figures["as it is"]["ZeRO-1"]["time_over_bare"]["median"] - 1
    holds = {f"losses of two loops are {off:.1e} apart: they do not do the same work": off <= SAME_LOSS}
    if not here.rehearsing:
        holds[f"ZeRO-1 costs {100 * cost:.1f} % over the best bare loop"] = cost <= COST
    return judge(here, holds, figures, f"ZeRO-1 at most {100 * COST:.0f} % slower than the fastest bare loop; losses "
                 f"of all loops within {SAME_LOSS:.0e}; the rest is measured, not judged", only_on_gpu=True)


class _Bench:
    """Loops over the same batches, with the memory that each took on top of what was there."""

    def __init__(self, here: Here, recipe: Any, vocabulary: int, batches: list):
        self.here, self.recipe, self.vocabulary, self.batches = here, recipe, vocabulary, batches
        self.peak = peak_flops(here.device, {"bf16": {"enabled": True}})
        self.matrix = matrix_flops(here, torch.bfloat16)
        self.loops: dict[str, Any] = {}
        self.peak_bytes: dict[str, int] = {}
        self.bare: list[str] = []

    def clear(self) -> None:
        for loop in self.loops.values():
            loop.close()
        self.loops.clear(), self.peak_bytes.clear(), self.bare.clear()
        gc.collect()

    def add(self, name: str, build: Callable[[], Any], is_bare: bool = False) -> None:
        """Build it and take two steps: what it holds, and the most it takes beside."""
        self.bare += [name] * is_bare
        on_gpu = self.here.device.type == "cuda"
        before = torch.cuda.memory_allocated() if on_gpu else 0
        loop = self.loops[name] = build()
        for number in (1, 2):
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            loop.step(number, self.batches[number % len(self.batches)])
        self.here.wait()
        self.peak_bytes[name] = torch.cuda.max_memory_allocated() - before if on_gpu else 0

    def measure(self) -> tuple[dict, str, float]:
        """(figures by loop, the fastest bare loop, how far losses lie apart)."""
        turns = take_turns({name: self._turn(loop) for name, loop in self.loops.items()},
                           2 if self.here.rehearsing else ROUNDS, finish=self.here.wait)
        best = fastest({name: turns[name] for name in self.bare})
        family = family_of(self.recipe)
        positions = self.recipe.batch.rows * self.recipe.batch.length
        figures = {}
        for name, of_loop in turns.items():
            loop = self.loops[name]
            parameters = sum(p.numel() for p in self.loops[best].parameters)
            step_s = Spread.of(turn.wall_s / STEPS_A_TURN for turn in of_loop)
            flops = positions * family.flops_a_target(self.recipe, parameters) / step_s.median
            figures[name] = {
                "tokens_per_s": positions / step_s.median, "step_s": step_s.as_json(),
                "host_cpu_s_a_step": Spread.of(turn.cpu_s / STEPS_A_TURN for turn in of_loop).median,
                "mfu": flops / self.peak if self.peak else None, "share_of_measured_matrix_rate": flops / self.matrix,
                "peak_gib": self.peak_bytes[name] / 2**30,
                "time_over_bare": ratio(of_loop, turns[best], "wall_s").as_json()}
        losses = {name: loop.flush() for name, loop in self.loops.items()}
        off = max(abs(a - b) / b for of_loop in losses.values() for a, b in zip(of_loop, losses[best], strict=True))
        return {"fastest_bare": best, **figures}, best, off

    def _turn(self, loop: Any) -> Callable[[], None]:
        numbers = iter(range(3, 10**9))

        def turn() -> None:
            for _ in range(STEPS_A_TURN):
                number = next(numbers)
                loop.step(number, self.batches[number % len(self.batches)])

        return turn


def _compiled(loop: Any) -> Any:
    loop.trainee.compile()
    return loop


def _small_model() -> list[str]:
    return ["model.width=32", "model.heads=2", "model.layers=2", "model.ff=64"]

"""One process of step.py: one vocabulary and precision, all ZeRO stages and all bare loops taking turns.

A process of its own, because allocator settings are read when a process starts. Prints its result as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from bare import bare_loops  # noqa: E402
from packed import packed_step  # noqa: E402
from rounds import Spread, fastest, ratio, take_turns  # noqa: E402
from training import DstrainLoop, bench_recipe, trainee_builder  # noqa: E402

from dstrain.config.shape import shape_of  # noqa: E402
from dstrain.runtime.dist import start_ranks, stop_ranks  # noqa: E402

STAGES = {"fp32": (0, 1, 2, 3), "bf16": (1, 2, 3)}
SAME_LOSS = {"fp32": 1e-5, "bf16": 2e-2}
"""how far the losses of two contenders may lie apart, relative: further, and they do not do the same work"""
DIFFERENT_STEPS = 4


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    ranks = start_ranks()
    recipe = bench_recipe(arguments.preset, arguments.rows, arguments.micro_rows, arguments.length)
    loops = {f"zero{stage}": DstrainLoop(recipe, f"zero{stage}_{arguments.precision}", arguments.vocab, ranks)
             for stage in STAGES[arguments.precision]}
    bare = {name: make() for name, make in bare_loops(trainee_builder(recipe, arguments.vocab, ranks.device), recipe,
                                                      ranks.device, arguments.precision).items()}
    loops |= bare
    steps = [packed_step(shape_of(recipe, 1), arguments.rows, arguments.length, arguments.vocab, seed)
             for seed in range(DIFFERENT_STEPS)]
    turns = take_turns({name: _turn(loop, steps) for name, loop in loops.items()}, arguments.rounds, warmup_rounds=2,
                       say=lambda text: print(text, file=sys.stderr, flush=True))
    losses = {name: loop.flush() for name, loop in loops.items()}
    json.dump(_result(arguments, turns, losses, list(bare)), sys.stdout)
    stop_ranks()


def _turn(loop, steps):
    numbers = iter(range(1, 10**9))

    def turn() -> None:
        number = next(numbers)
        loop.step(number, steps[number % len(steps)])

    return turn


def _result(arguments: argparse.Namespace, turns: dict, losses: dict[str, list[float]], bare: list[str]) -> dict:
    yardstick = fastest({name: turns[name] for name in bare}, "cpu_s")
    expected = losses[yardstick]
    off = {name: max(abs(a - b) / b for a, b in zip(of_loop, expected, strict=True))
           for name, of_loop in losses.items()}
    positions = arguments.rows * arguments.length
    return {
        "vocab": arguments.vocab, "precision": arguments.precision, "yardstick": yardstick,
        "allocator_kept": "MALLOC_TRIM_THRESHOLD_" in os.environ,
        "same_work": max(off.values()) <= SAME_LOSS[arguments.precision],
        "contenders": {name: {
            "wall_s": Spread.of(turn.wall_s for turn in of_loop).as_json(),
            "cpu_s": Spread.of(turn.cpu_s for turn in of_loop).as_json(),
            "tokens_per_s": positions / Spread.of(turn.wall_s for turn in of_loop).median,
            "wall_ratio": ratio(of_loop, turns[yardstick], "wall_s").as_json(),
            "cpu_ratio": ratio(of_loop, turns[yardstick], "cpu_s").as_json(),
            "loss_off": off[name]} for name, of_loop in turns.items()}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=STAGES, required=True)
    parser.add_argument("--preset", default="tiny")
    for name in ("vocab", "rows", "micro-rows", "length", "rounds", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()

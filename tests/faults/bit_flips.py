"""Flip single bits in committed checkpoints: each must be noticed before a tensor is read, and the one before be taken.

    python tests/faults/bit_flips.py                   # 1,000 flips, and 200 in what DeepSpeed saves of the same engine
    python tests/faults/bit_flips.py --flips 50 --seed 3

Half of the flips fall anywhere in the checkpoint's bytes, which is nearly always in a tensor; the other half in a file
chosen first, so that manifest, its guard, state, recipe and tokenizer get theirs. A flip is noticed if the checkpoint
is passed over, with a line that says why, before any tensor file is opened. Ends with 1 if one is not.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Callable

from deepspeed_saves import digest_of, fill_with_noise
from one_engine import Trained, in_child

from dstrain.runtime.checkpoint import loading
from dstrain.runtime.checkpoint.folder import newest_good


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def choose(folder: Path, chance: random.Random) -> tuple[Path, int]:
    """A file and one of its bits."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    weights = [path.stat().st_size for path in files] if chance.random() < 0.5 else None
    path = chance.choices(files, weights)[0]
    return path, chance.randrange(8 * path.stat().st_size)


def run(trained: Trained, flips: int, seed: int, say: Callable[[str], None]) -> tuple[Counter, list[str]]:
    """(flips by file, those that were not noticed)."""
    chance, checkpoints = random.Random(seed), trained.place / "checkpoints"
    for _ in range(2):
        trained.train(2)
        trained.save(checkpoints)
    older, newest = sorted(checkpoints.glob("step_*"))
    opened: list[Path] = []
    inner = loading.TensorFile.__init__

    def noting(self, path: Path, *arguments) -> None:
        opened.append(path)
        inner(self, path, *arguments)

    loading.TensorFile.__init__ = noting
    by_file, missed = Counter(), []
    for number in range(flips):
        path, bit = choose(newest, chance)
        flip(path, bit)
        lines: list[str] = []
        found = newest_good(checkpoints, trained.ranks, lines.append)
        by_file[str(path.relative_to(newest))] += 1
        if found != older or not lines or str(newest) not in lines[0] or opened:
            missed.append(f"{path.name}, bit {bit}: {found} was taken, {lines}, opened {opened}")
            say(f"MISSED {missed[-1]}")
        flip(path, bit)
    loading.TensorFile.__init__ = inner
    assert newest_good(checkpoints, trained.ranks, say) == newest  # all flipped back
    return by_file, missed


def run_deepspeed(trained: Trained, flips: int, seed: int) -> Counter:
    """The same flips in what `engine.save_checkpoint` wrote: what `load_checkpoint` makes of them."""
    folder, chance = trained.place / "deepspeed", random.Random(seed)
    trained.engine.deepspeed.save_checkpoint(str(folder))
    saved = digest_of(trained.engine)
    outcomes = Counter()
    for _ in range(flips):
        path, bit = choose(folder, chance)
        flip(path, bit)

        def load() -> str:
            fill_with_noise(trained.engine)  # else what was not loaded would look as if it had been
            where, _ = trained.engine.deepspeed.load_checkpoint(str(folder))
            if where is None:
                return "silently nothing: training would start from scratch"
            return "the right numbers" if digest_of(trained.engine) == saved else "WRONG numbers, without a word"

        outcome, words = in_child(load)
        outcomes[words if outcome == "returned" else "an error" if outcome == "raised" else outcome] += 1
        flip(path, bit)
    shutil.rmtree(folder)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    trained, began = Trained(), time.monotonic()
    try:
        by_file, missed = run(trained, arguments.flips, arguments.seed, lambda line: print(line, flush=True))
        print(f"{sum(by_file.values())} flips in {time.monotonic() - began:.0f} s, {len(missed)} not noticed; in "
              + ", ".join(f"{name} {count}" for name, count in by_file.most_common()))
        count = arguments.flips // 5
        told = run_deepspeed(trained, count, arguments.seed)
        print(f"plain DeepSpeed, {count} flips in its own files: "
              + ", ".join(f"{what} {count}" for what, count in told.most_common()))
    finally:
        shutil.rmtree(trained.place, ignore_errors=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

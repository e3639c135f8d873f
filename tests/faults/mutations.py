"""Loads a checkpoint whose files were harmed, thousands of times: each time a typed error that names the file, at once.

    .venv/bin/python tests/faults/mutations.py            10,000 mutations, about ten minutes
    .venv/bin/python tests/faults/mutations.py 500 7      so many, from another seed

Every mutation changes one file, and comes in two kinds: the manifest stays as it was (the hashes must find it), or all
hashes are made to fit (the loader itself must defend). It goes wrong when loading ends in anything but a UserError that
names the file, takes more than a second or more memory than the files allow for, hangs, crashes, or when a mutation
that changes no meaning does not load the very same tensors. Exit code 1 if any did.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/faults")]

from mutants import HARMS  # noqa: E402  (the folders of this file are not those of a package)
from small_run import environment, lay_out, sign  # noqa: E402

from dstrain.runtime.checkpoint.manifest import GUARD, MANIFEST, guard_of  # noqa: E402

SLOWEST_S = 1.0
HANGS_AFTER_S = 10.0
MOST_MEMORY = 64 << 20
"""that came into use; the files together have 300 kB, and none is larger than 1 MB after a mutation"""
MOST_ADDRESSES = 2 << 30
"""of the process, beyond what it has when it starts: above it, allocations fail"""

TEXT = "the words of a small text that is read again and again, "


class Outcome(NamedTuple):
    number: int
    file: str
    harm: str
    signed: bool
    outcome: str
    """refused | same | other, or what went wrong"""
    well: bool
    words: str
    seconds: float


def make_checkpoint(place: Path) -> tuple[Path, Path]:
    """(checkpoint, recipe) of a run of seconds with a learned tokenizer."""
    lay_out(place)
    done = subprocess.run([sys.executable, "-m", "dstrain", "train", "small.yaml", "tokenizer=bpe:300", "run.steps=2"],
                          cwd=place, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "runs/small/checkpoints/step_00000002", place / "runs/small/recipe.yaml"


def run(checkpoint: Path, recipe: Path, count: int, seed: int) -> list[Outcome]:
    """All mutations, in a process that is started again when it hangs or crashes."""
    context, outcomes = multiprocessing.get_context("spawn"), []
    while len(outcomes) < count:
        here, there = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(there, checkpoint, recipe, len(outcomes), count, seed))
        worker.start()
        there.close()
        patience_s = 120.0  # for its imports
        while len(outcomes) < count:
            try:
                if not here.poll(patience_s):
                    raise EOFError
                outcomes.append(here.recv())
                patience_s = HANGS_AFTER_S
            except EOFError:
                hung = worker.is_alive()
                worker.kill()
                worker.join()
                file, harm, signed, _ = mutation(len(outcomes), seed, {})
                what = f"hangs for {HANGS_AFTER_S:.0f} s" if hung else f"crashes (exit code {worker.exitcode})"
                outcomes.append(Outcome(len(outcomes), file, harm, signed, what, False, "", HANGS_AFTER_S))
                break
        worker.join(5.0)
        here.close()
    return outcomes


def mutation(number: int, seed: int, files: dict[str, bytes]) -> tuple[str, str, bool, bytes]:
    """(file, kind of harm, whether hashes are made to fit, the file's new bytes) of a number: kinds come in turn."""
    kinds = [(file, harm, signed) for file, harms in HARMS.items() for harm in harms for signed in (False, True)
             if not (signed and file == GUARD)]
    file, harm, signed = kinds[number % len(kinds)]
    data = HARMS[file][harm](files[file], random.Random(f"{seed}/{number}")) if files else b""
    return file, harm, signed, data


def _work(pipe: Any, checkpoint: Path, recipe: Path, first: int, count: int, seed: int) -> None:
    """The worker: harms, loads, restores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loader = Loader(recipe)
    originals = checkpoint.parent / "originals"
    if not originals.exists():  # a killed worker leaves its last mutation behind
        _copy(checkpoint, originals)
    files = {str(path.relative_to(originals)): path.read_bytes() for path in originals.rglob("*") if path.is_file()}
    _restore(checkpoint, files, files)
    truth = loader.load(checkpoint)
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (addresses + MOST_ADDRESSES,) * 2)
    for number in range(first, count):
        file, harm, signed, data = mutation(number, seed, files)
        (checkpoint / file).write_bytes(data)
        if signed and file == MANIFEST:
            (checkpoint / GUARD).write_bytes(guard_of(data))
        elif signed:
            sign(checkpoint)
        pipe.send(Outcome(number, file, harm, signed,
                          *judged(loader, checkpoint, truth, file, harm, signed, data == files[file])))
        _restore(checkpoint, files, (file, MANIFEST, GUARD))


def judged(loader: "Loader", checkpoint: Path, truth: dict, file: str, harm: str, signed: bool,
           unchanged: bool) -> tuple[str, bool, str, float]:
    """(outcome, whether it is as it should be, what was said, seconds)"""
    from dstrain.config.errors import UserError

    Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak of what this process has in memory starts anew
    before, began = _peak_bytes(), time.process_time()
    try:
        loaded, words = loader.load(checkpoint), ""
        outcome = "same" if loaded == truth else "other"
    except UserError as error:
        outcome, words = "refused", str(error)
    except BaseException as error:
        outcome, words = f"{type(error).__name__} instead of a UserError", str(error)
    seconds, memory = time.process_time() - began, _peak_bytes() - before
    if seconds > SLOWEST_S:
        return f"{outcome} after {seconds:.1f} s", False, words, seconds
    if memory > MOST_MEMORY:
        return f"{outcome} with {memory >> 20} MiB", False, words, seconds
    if outcome == "refused":
        # Where two files contradict each other, nobody can tell which was harmed: what they disagree on is said.
        named = Path(file).name in words or checkpoint.name in words and any(words_of_two in words for words_of_two in (
            "parameter ", "another run", "/tokenizer: ", "damaged and passed over: ")) or (
            file == "state.json" and "the checkpoint was written" in words)
        well = named and "\n" not in words and len(words) < 1500
        well = well and not unchanged and not (signed and harm.startswith("harmless"))
        return outcome if well else f"{outcome} in the wrong way", well, words, seconds
    # Hashes that were made to fit can hide what has a form of its own: other numbers, another step, another pattern.
    may_differ = signed and (not file.endswith(".safetensors") or harm in ("bytes changed", "noise"))
    well = (signed or unchanged) if outcome == "same" else may_differ if outcome == "other" else False
    return outcome, well, words, seconds


class Loader:
    """As a run that goes on loads its checkpoint, up to the engine."""

    def __init__(self, recipe: Path):
        from dstrain.config.load import load_saved_recipe
        self.recipe = load_saved_recipe(recipe)
        self.place = recipe.parents[2]
        self.first_state: bytes | None = None

    def load(self, checkpoint: Path) -> dict[str, Any]:
        """What was loaded, to compare."""
        import os

        import torch

        from dstrain.config.errors import UserError
        from dstrain.config.load import load_saved_recipe, recipe_to_dict
        from dstrain.data.feed import TrainFeed
        from dstrain.data.tokenizers.tokenizer import load_tokenizer
        from dstrain.families import family_of
        from dstrain.runtime.checkpoint.loading import load
        from dstrain.runtime.checkpoint.manifest import verify
        from dstrain.train.continuity import changes_since, shape_change
        from dstrain.train.state import RunState

        fault = verify(checkpoint)
        if fault is not None:  # what `newest_good` says of it, and passes it over
            raise UserError(f"checkpoint {checkpoint} is damaged and passed over: {fault}")
        os.chdir(self.place)
        saved = load_saved_recipe(checkpoint / "recipe.yaml")
        changes = changes_since(saved, self.recipe, str(checkpoint / "recipe.yaml"))
        loaded = load(checkpoint)
        state = RunState.from_json(loaded.state, checkpoint / "state.json")
        shape_change(loaded.shape, {})
        tokenizer = load_tokenizer(self.recipe.tokenizer, folder=checkpoint / "tokenizer")
        with torch.device("meta"):
            loaded.check_fits(family_of(self.recipe).build_trainee(self.recipe, tokenizer), self.recipe.optim)
        text = (checkpoint / "state.json").read_bytes()
        if text != self.first_state:  # the data's place is read by the feed; once where it is what it was
            with closing(TrainFeed(self.recipe, tokenizer, 0, 1, state.place, warn=lambda line: None)) as feed:
                rows = next(feed).rows_hash
            self.first_state, self.rows = self.first_state or text, rows if self.first_state is None else self.rows
        else:
            rows = self.rows
        return {"changes": changes, "recipe": recipe_to_dict(saved), "state": repr(state), "rows": rows,
                "ids": tokenizer.encode(TEXT).tolist(),
                **{f"{key} of {name}": hashlib.sha256(file.tensor(name).numpy().tobytes()).hexdigest()
                   for key, file in {"weights": loaded.weights, **loaded.moments}.items() for name in file.shapes}}


def _peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def table(outcomes: list[Outcome]) -> str:
    """Counts by file, kind of hashes and outcome, then what went wrong."""
    counts = Counter((o.file, "made to fit" if o.signed else "as they were", o.outcome if o.well else "WRONG")
                     for o in outcomes)
    lines = [f"{'file':<32}{'hashes':<14}{'refused':>9}{'same':>7}{'other':>7}{'WRONG':>7}{'slowest':>10}"]
    for file, hashes in sorted({key[:2] for key in counts}):
        of_these = [o for o in outcomes if o.file == file and o.signed == (hashes == "made to fit")]
        lines.append(f"{file:<32}{hashes:<14}" + "".join(
            f"{counts[file, hashes, outcome]:>{width}}" for outcome, width in
            (("refused", 9), ("same", 7), ("other", 7), ("WRONG", 7))) + f"{max(o.seconds for o in of_these):>8.2f} s")
    wrong = [o for o in outcomes if not o.well]
    lines.append(f"{len(outcomes):,} mutations of {len({(o.file, o.harm) for o in outcomes})} kinds: "
                 f"{sum(o.outcome == 'refused' for o in outcomes):,} refused, {len(wrong)} WRONG")
    lines += [f"WRONG {o.number}: {o.file}, {o.harm}, hashes {'made to fit' if o.signed else 'as they were'}: "
              f"{o.outcome}: {o.words[:300]}" for o in wrong[:60]]
    return "\n".join(lines)


def _copy(folder: Path, to: Path) -> None:
    import shutil
    shutil.copytree(folder, to)


def _restore(checkpoint: Path, files: dict[str, bytes], names: Any) -> None:
    for name in names:
        (checkpoint / name).write_bytes(files[name])


def main() -> int:
    count, seed = (int(sys.argv[1]) if sys.argv[1:] else 10_000), (int(sys.argv[2]) if sys.argv[2:] else 1)
    with tempfile.TemporaryDirectory(prefix="dstrain-mutations-") as place:
        began = time.monotonic()
        outcomes = run(*make_checkpoint(Path(place)), count, seed)
        print(table(outcomes), f"\n{time.monotonic() - began:.0f} s, seed {seed}")
    return int(any(not outcome.well for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

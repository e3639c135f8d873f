"""Break every file operation of a save in turn: what is loaded afterwards is always the newest committed checkpoint.

    python tests/faults/file_operations.py                      # every call of every operation, about 15 minutes
    python tests/faults/file_operations.py --calls 3 --seed 7   # three random calls of each kind with each fault

A real training of one rank commits checkpoints at steps 2 and 4, with dstrain and, of the same engine at the same
moments, with DeepSpeed's own engine.save_checkpoint. At the save of step 6 it is cloned by fork for each trial, and
call 1 .. N of each kind of file operation (counted below Python, see broken_disk.py) meets each fault: killed before or
after it, the power cut (what was not synced is gone), no space, an I/O error, half a write followed by an error, half
a write said as such, half a write that claims to be whole. Then another clone loads by the production path: it must be
the checkpoint of step 6 if its rename was done, else that of step 4, bit for bit; an error must be one line that names
the place, the reason and the remedy; and a save that follows must succeed. Nothing may hang. With saves beside the
training, in its place, and of a step that is committed already. Of each kind and fault some trials go on with the
trainer itself, to the run's end, and are compared with the run that nothing befell. Last, three careless ways of saving
are seen to be noticed. Exit code 1 if anything was wrong, or not noticed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from broken_disk import (  # noqa: E402  (the folder of this file is not that of a package)
    CUTS, END, OF_KIND, Done, Forked, arm, cut_power, disarm, in_fork, read_journal, with_broken_disk)

RECIPE = """# saves at steps 2, 4 and 6; the last is the best and lets the first be pruned
family: lm
model: {width: 16, heads: 2, layers: 1, ff: 32, dropout: 0.1}
tokenizer: bpe:300
data: {train: [{path: corpus.txt, documents: lines}], valid: [{path: valid.txt, documents: lines}], lanes: 4}
batch: {rows: 8, micro_rows: 4, length: 32}
schedule: {warmup_steps: 2}
run: {name: run, steps: 6}
valid: {every: 6}
checkpoint: {every: 2, keep: 2}
log: {every: 2, samples: 1}
"""
HANGS_AFTER_S = 60.0
WAYS = ("beside the training", "in its place", "of a committed step")
"""of saving with dstrain: background on, background off, and (on) of a step that is committed already"""
DEEPSPEED_WAYS = ("DeepSpeed", "DeepSpeed, same tag")
"""save_checkpoint(folder), and with the tag of what is committed already, as a run does that goes on from older"""
RIGHT = "newest committed"


class Trial(NamedTuple):
    """One fault at one call, and what became of it."""

    way: str
    kind: str
    number: int
    fault: str
    outcome: str
    """`RIGHT`, or what went wrong"""
    path: str
    """of the file that was operated on"""
    published: bool
    words: str
    """the error that the save ended with"""
    by_hand: bool = False
    """only for DeepSpeed, where nothing was loaded: whether naming the tag by hand loads what is committed"""


class Plan(NamedTuple):
    """How much is tried."""

    ways: tuple[str, ...]
    kinds: tuple[str, ...]
    calls: int | None
    """random calls of each kind with each fault; None for all"""
    to_the_end: int
    """of each kind and fault so many trials go on with the trainer itself"""
    seed: int
    mutants: tuple[str, ...]


def run(place: Path, plan: Plan, say: Callable[[str], None]) -> list[Trial]:
    """All trials, in clones of one training at its third save."""
    from dstrain.config.engine_json import engine_json
    from dstrain.config.load import load_recipe
    from dstrain.families import family_of
    from dstrain.runtime.checkpoint.saver import Saver
    from dstrain.train.trainer import train

    ranks = lone_rank_that_can_be_forked()
    lay_out(place)
    os.chdir(place)
    trials: list[Trial] = []
    recipe = load_recipe("run.yaml")
    recipe = replace(recipe, run=replace(recipe.run, dir=str(place / "straight")))
    config = engine_json(recipe, 1, "cpu", "zero1_fp32")
    keeps_all = replace(recipe, checkpoint=replace(recipe.checkpoint, keep=99))
    told = in_fork(lambda: train(keeps_all, family_of(recipe), config, ranks) and None, place, 300.0)
    assert told.how == "well", told
    shutil.rmtree(place / "straight/run/checkpoints/step_00000002")  # which the runs that are compared have pruned
    inner, moments = Saver.save, []

    def save(saver: Any, state: dict, write_side_files: Callable, is_best: bool) -> None:
        saver.finish()
        moment = Moment(place, saver, state, write_side_files, is_best, recipe, config, ranks,
                        moments[-1] if moments else None)
        moments.append(moment)
        if state["step"] == 6:
            from deepspeed_saves import DeepSpeedMoment
            Saver.save = inner  # the clones save as production does
            deepspeed = DeepSpeedMoment(place, saver.engine, moments)
            for way in plan.ways:
                trials.extend(sweep(deepspeed if way in DEEPSPEED_WAYS else moment, way, plan, say))
            few = plan._replace(calls=1, to_the_end=0)
            for moment.mutant in plan.mutants:
                trials.extend(trial._replace(way=moment.mutant) for trial in sweep(moment, WAYS[1], few, say))
        else:
            from deepspeed_saves import save_with_deepspeed
            save_with_deepspeed(saver.engine, place)
        inner(saver, state, write_side_files, is_best)

    Saver.save = save
    try:
        base = replace(recipe, run=replace(recipe.run, dir=str(place / "base")))
        train(base, family_of(recipe), config, ranks)
    finally:
        Saver.save = inner
    return trials


def lay_out(place: Path) -> None:
    """The recipe and its text in an empty folder."""
    (place / "run.yaml").write_text(RECIPE)
    (place / "corpus.txt").write_text("".join(f"line {n} says that {n} plus one is {n + 1}\n" for n in range(400)))
    (place / "valid.txt").write_text("one plus one is two\nand that is all\n")


def sweep(moment: Any, way: str, plan: Plan, say: Callable[[str], None]) -> Iterator[Trial]:
    """Every kind of operation, every call of it, every fault."""
    undisturbed = moment.trial(way, END, 0, "none", False)
    yield undisturbed
    calls = Counter(one.kind for one in read_journal(moment.work / "journal"))
    chance, began = random.Random(f"{plan.seed} {way}"), time.monotonic()
    say(f"{way}: a save is " + ", ".join(f"{calls[kind]} {kind}" for kind in OF_KIND if calls[kind]))
    for kind in plan.kinds:
        for fault in OF_KIND.get(kind, ()):
            numbers = list(range(1, calls[kind] + 1))
            if plan.calls is not None:
                numbers = sorted(chance.sample(numbers, min(plan.calls, len(numbers))))
            to_the_end = chance.sample(numbers, min(plan.to_the_end, len(numbers)))
            for number in numbers:
                yield moment.trial(way, kind, number, fault, number in to_the_end)
        if calls[kind]:
            say(f"{way}: {kind} done, {time.monotonic() - began:.0f} s")
    for fault in CUTS if END in plan.kinds else ():
        yield moment.trial(way, END, 0, fault, plan.to_the_end > 0)


class Moment:
    """The training at a save, and what dstrain makes of it."""

    def __init__(self, place: Path, saver: Any, state: dict, write_side_files: Callable, is_best: bool, recipe: Any,
                 config: dict, ranks: Any, before: Moment | None):
        self.place, self.saver, self.state, self.recipe, self.config = place, saver, dict(state), recipe, config
        self.write_side_files, self.is_best, self.ranks, self.before = write_side_files, is_best, ranks, before
        self.tensors = tensors_of(saver.engine, self.state)
        from deepspeed_saves import digest_of
        self.digest = digest_of(saver.engine)
        """of what DeepSpeed's own checkpoint must bring back"""
        self.trials = 0
        self.mutant: str | None = None

    def trial(self, way: str, kind: str, number: int, fault: str, to_the_end: bool) -> Trial:
        """Break it, look what is there, load it, save again."""
        self.trials += 1
        self.work = work = self.place / f"trial{self.trials % 2}"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.place / "base", work / "dir")
        final = work / "dir/run/checkpoints" / f"step_{self._step(way):08d}"
        saved = in_fork(lambda: self._save(way, kind, number, fault), work, HANGS_AFTER_S)
        journal = read_journal(work / "journal")
        if fault in CUTS:
            cut_power(journal, names_too=fault == CUTS[1])
        broken = next((one.path for one in journal if one.what == "broken"), "")
        published = is_published(journal, str(final), fault == CUTS[1])
        trial = Trial(way, kind, number, fault, RIGHT, broken.removeprefix(f"{work}/dir/run/"), published,
                      saved.result["error"] if saved.result else "")
        if to_the_end:
            shutil.copytree(work / "dir", work / "onward")
        wrong = self._wrong_in_save(saved, trial)
        if wrong is None:
            loaded = in_fork(lambda: self._load(way, published), work, HANGS_AFTER_S)
            wrong = loaded.result if loaded.how == "well" else f"loading: {loaded.how}: {loaded.printed[-500:]}"
        if wrong is None and to_the_end and way != WAYS[2]:
            wrong = self._trains_to_the_end()
        return trial if wrong is None else trial._replace(outcome=wrong)

    def _step(self, way: str) -> int:
        return 4 if way == WAYS[2] else 6

    def _state(self, way: str) -> dict:
        return {**self.state, "step": self._step(way)}

    def _new_saver(self, folder: Path, way: str, said: list[str]) -> Any:
        from dstrain.runtime.checkpoint.saver import Saver
        return Saver(folder, self.saver.engine, self.ranks, 2, way != WAYS[1], self.saver.about, said.append)

    def _save(self, way: str, kind: str, number: int, fault: str) -> dict:
        """In a clone: as the trainer saves, and hears at its next step what became of it."""
        from dstrain.config.errors import Trouble, UserError
        if self.mutant is not None:
            MUTANTS[self.mutant]()
        said: list[str] = []
        saver = self._new_saver(self.work / "dir/run/checkpoints", way, said)
        error, how = "", ""
        arm(self.work / "dir", "mkdir" if kind == END else kind, number, "none" if kind == END else fault,
            self.work / "journal", self.work / "kept")
        try:
            saver.save(self._state(way), self.write_side_files, self.is_best)
            saver.finish()
        except (Trouble, UserError) as caught:
            error, how = str(caught), "one line"
        except Exception as caught:  # a user would see a traceback: told as what it is
            error, how = f"{type(caught).__name__}: {caught}", "traceback"
        disarm()
        saver.close()
        return {"error": error, "how": how, "said": said}

    def _wrong_in_save(self, saved: Forked, trial: Trial) -> str | None:
        kills = trial.kind != END and (trial.fault.startswith("killed") or trial.fault in CUTS)
        if kills != (saved.how == "killed") or not kills and saved.how != "well":
            return f"the save: {saved.how}: {saved.printed[-500:]}"
        if trial.fault != "none" and trial.kind != END and not trial.path:
            return "nothing was broken: there was no such call"
        if kills:
            return None
        error, how, said = saved.result["error"], saved.result["how"], saved.result["said"]
        if how == "traceback" or error and not well_said(error, trial.path):
            return f"an error that is not in one line with file, reason and remedy: {error}"
        if not error and not trial.published:
            return "it says that it has saved, but nothing is published"
        if not error and not any(line.startswith("saved") for line in said):
            return "it has saved, but does not say so"
        return None

    def _load(self, way: str, published: bool) -> str | None:
        """In a clone: as a run that goes on, up to the engine; then it saves once more. What is wrong, or None."""
        from dstrain.families import family_of
        from dstrain.train.progress import Progress
        from dstrain.train.run_folder import RunFolder
        from dstrain.train.start import newest_checkpoint, open_tokenizer, set_back_to

        folder, family, progress = RunFolder(self.work / "dir/run"), family_of(self.recipe), Progress(6, shown=True)
        moment, state = (self, self._state(way)) if published else (self.before, self.before.state)
        loaded, recipe, _ = newest_checkpoint(folder, self.recipe, family, self.config, self.ranks, progress)
        if loaded is None:
            return "nothing was loaded"
        wrong = other_than(loaded, state, moment.tensors)
        if wrong is not None:
            return wrong
        text = "line 7 says that"
        kept = family.open_tokenizer(recipe, self.place / "base/run/tokenizer", progress.say)
        tokenizer = open_tokenizer(recipe, family, loaded, folder, progress, self.ranks)
        if tokenizer.encode(text).tolist() != kept.encode(text).tolist():
            return "the tokenizer is another"
        set_back_to(loaded, progress, self.ranks)
        return self._save_again(folder.checkpoints, way, state, moment.tensors)

    def _save_again(self, folder: Path, way: str, state: dict, tensors: dict) -> str | None:
        """The next save must succeed, and keep what was loaded; nothing of the broken one is left."""
        from dstrain.runtime.checkpoint.folder import DAMAGED, committed, newest_good, step_name
        from dstrain.runtime.checkpoint.loading import load
        said: list[str] = []
        saver, next_state = self._new_saver(folder, way, said), {**self.state, "step": 8}
        saver.save(next_state, self.write_side_files, False)
        saver.finish()
        if newest_good(folder, self.ranks, said.append) != folder / step_name(8) or len(said) > 1:
            return f"the next save: {said}"
        for its_state, its_tensors in ((next_state, self.tensors), (state, tensors)):
            wrong = other_than(load(folder / step_name(its_state["step"])), its_state, its_tensors)
            if wrong is not None:
                return f"after the next save: {wrong}"
        left = [path.name for path in folder.iterdir() if path not in committed(folder)
                and path.name not in ("latest", "best") and not path.name.startswith(DAMAGED)]
        return f"after the next save there is {left}" if left else None

    def _trains_to_the_end(self) -> str | None:
        """The same command goes on, with an engine of its own; compared with the run that nothing befell."""
        from dstrain.doctor.proofs.resume import compare_runs
        from dstrain.families import family_of
        from dstrain.train.trainer import train
        recipe = replace(self.recipe, run=replace(self.recipe.run, dir=str(self.work / "onward")))
        told = in_fork(lambda: train(recipe, family_of(recipe), self.config, self.ranks) and None, self.work, 300.0)
        if told.how != "well":
            return f"going on: {told.how}: {told.printed[-500:]}"
        differences, compared = compare_runs(self.place / "straight", self.work / "onward", recipe)
        assert compared > 10
        return f"the run that went on differs: {differences[:3]}" if differences else None


def _sync_nothing() -> None:
    os.fsync = lambda file: None


def _read_nothing_back() -> None:
    from dstrain.runtime.checkpoint import disk
    disk.check_at = lambda *where: None


def _remove_first() -> None:
    from dstrain.runtime.checkpoint import saver
    from dstrain.runtime.checkpoint.folder import committed
    inner = saver.write

    def write(folder: Path, *more: Any) -> Path:
        for old in committed(folder):
            shutil.rmtree(old)
        return inner(folder, *more)
    saver.write = write


MUTANTS = {"syncs nothing": _sync_nothing, "reads nothing back": _read_nothing_back, "removes first": _remove_first}
"""careless ways of saving, each of which this harness must notice"""


def lone_rank_that_can_be_forked() -> Any:
    """One rank whose collectives need no threads: a clone would be without them."""
    import torch
    import torch.distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from dstrain.runtime.dist import deepspeed, start_ranks
    torch.set_num_threads(1)
    torch.distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    deepspeed.init_distributed(dist_backend="fake", verbose=False)
    return start_ranks()


def tensors_of(engine: Any, state: dict) -> dict[tuple[str, str], str]:
    """The SHA-256 of every weight and moment that the engine holds, by file and name."""
    import torch

    from dstrain.runtime.checkpoint.snapshot import take
    parts: dict[tuple[str, str], list] = {}
    for part in sorted(take(engine, state, {}, None).parts, key=lambda part: part.start):
        parts.setdefault((part.file, part.name), []).append(part.values.detach().reshape(-1))
    return {key: hashlib.sha256(torch.cat(values).numpy().tobytes()).hexdigest() for key, values in parts.items()}


def other_than(loaded: Any, state: dict, tensors: dict[tuple[str, str], str]) -> str | None:
    """What of a loaded checkpoint is not what the training held at that save."""
    if loaded.state["step"] != state["step"]:
        return f"step {loaded.state['step']} was loaded instead of {state['step']}"
    if {name: loaded.state[name] for name in state} != json.loads(json.dumps(state)):
        return f"the state of step {state['step']} is another"
    found = {(file.path.name, name): hashlib.sha256(file.tensor(name).numpy().tobytes()).hexdigest()
             for file in (loaded.weights, *loaded.moments.values()) for name in file.shapes}
    wrong = sorted(key for key in found.keys() | tensors.keys() if found.get(key) != tensors.get(key))
    return f"step {state['step']} has other tensors: {wrong[0]} and {len(wrong) - 1} more" if wrong else None


def is_published(journal: list[Done], final: str, names_are_lost: bool) -> bool:
    """Whether the checkpoint got its name; where unsynced names are lost, whether its folder was synced after that."""
    named = [number for number, one in enumerate(journal)
             if one.what == "done" and one.kind == "rename" and one.other == final and ".making" in one.path]
    return bool(named) and (not names_are_lost or any(
        one.what == "done" and one.kind == "fsync" and one.path == os.path.dirname(final)
        for one in journal[named[-1]:]))


def well_said(error: str, path: str) -> bool:
    """One line that names the file, the reason and the remedy."""
    return ("\n" not in error and path in error and "the same command" in error
            and any(reason in error for reason in ("No space left on device", "Input/output error", "reads back")))


def table(trials: list[Trial]) -> str:
    """By operation and fault: how often the newest committed checkpoint was loaded, with each way of saving."""
    ways = [way for way in (*WAYS, *DEEPSPEED_WAYS, *MUTANTS) if any(trial.way == way for trial in trials)]
    lines = ["| operation | fault | " + " | ".join(ways) + " |", "|---" * (2 + len(ways)) + "|"]
    for kind in (*OF_KIND, END):
        for fault in OF_KIND.get(kind, ("none", *CUTS)):
            cells = []
            for way in ways:
                of_these = [trial for trial in trials if (trial.way, trial.kind, trial.fault) == (way, kind, fault)]
                right = sum(trial.outcome == RIGHT for trial in of_these)
                cells.append(f"{right} of {len(of_these)}" if of_these else "-")
            if set(cells) != {"-"}:
                lines.append(f"| {kind} | {fault} | " + " | ".join(cells) + " |")
    lines.append("")
    for way in ways:
        of_way = [trial for trial in trials if trial.way == way]
        counts = Counter(trial.outcome if way in DEEPSPEED_WAYS or trial.outcome == RIGHT else
                         "WRONG" if way in WAYS else "noticed" for trial in of_way)
        new = sum(trial.published for trial in of_way)
        lines.append(f"{way}: {len(of_way):,} trials, the save was complete in {new:,}: "
                     + ", ".join(f"{count:,} {outcome}" for outcome, count in counts.most_common()))
        nothing = [trial for trial in of_way if way in DEEPSPEED_WAYS and trial.outcome != RIGHT]
        if nothing:
            lines.append(f"  of these {len(nothing):,}, naming the older tag by hand loads it in "
                         f"{sum(trial.by_hand for trial in nothing):,}")
    lines += [f"WRONG: {trial.way}, {trial.fault} at {trial.kind} {trial.number} ({trial.path}): {trial.outcome}"
              for trial in trials if trial.way in WAYS and trial.outcome != RIGHT][:60]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, help="random calls of each kind with each fault (default: all)")
    parser.add_argument("--to-the-end", type=int, default=1, help="trials of each kind and fault that train on")
    parser.add_argument("--ways", nargs="+", choices=(*WAYS, *DEEPSPEED_WAYS), default=(*WAYS, *DEEPSPEED_WAYS))
    parser.add_argument("--kinds", nargs="+", choices=(*OF_KIND, END), default=(*OF_KIND, END))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutants", nargs="*", choices=tuple(MUTANTS), default=tuple(MUTANTS),
                        help="careless ways of saving, a call each, which must be noticed")
    parser.add_argument("--json", type=Path, help="write all trials there")
    arguments = parser.parse_args()
    with_broken_disk(sys.argv)
    began = time.monotonic()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # there an fsync costs nothing
    place = Path(tempfile.mkdtemp(prefix="dstrain-file-operations-", dir=memory)).resolve()
    try:
        plan = Plan(tuple(arguments.ways), tuple(arguments.kinds), arguments.calls, arguments.to_the_end,
                    arguments.seed, tuple(arguments.mutants))
        trials = run(place, plan, lambda line: print(line, file=sys.stderr, flush=True))
    finally:
        os.chdir("/")
        shutil.rmtree(place)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([trial._asdict() for trial in trials]))
    print(table(trials))
    print(f"{len(trials):,} trials, {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    unnoticed = [mutant for mutant in arguments.mutants
                 if all(trial.outcome == RIGHT for trial in trials if trial.way == mutant)]
    print("".join(f"NOT NOTICED: a save that {mutant}\n" for mutant in unnoticed), end="")
    return int(bool(unnoticed) or any(trial.outcome != RIGHT for trial in trials if trial.way in WAYS))


if __name__ == "__main__":
    sys.exit(main())

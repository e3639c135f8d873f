"""Break every call of disk.py in a save in turn: loading must give the newest committed checkpoint, whole.

    python tests/faults/disk_calls.py                      # every call of every operation, about 30 minutes
    python tests/faults/disk_calls.py --calls 3 --seed 7   # three random calls of each kind with each fault

A real training of one rank commits checkpoints at steps 2 and 4, with dstrain and, of the same engine at the same
moments, with DeepSpeed's own engine.save_checkpoint. At the save of step 6 it is cloned by fork for each trial, and
call 1 .. N of each kind of file operation (counted below Python, see broken_disk.py) meets each fault: killed before or
after it, the power cut (what was not synced is gone), no space, an I/O error, half a write followed by an error, half
a write said as such, half a write that claims to be whole. Then another clone loads by the production path: it must be
the checkpoint of step 6 if its rename was done, else that of step 4, bit for bit; an error must be one line that names
the place, the reason and the remedy; and a save that follows must succeed. Nothing may hang. With saves beside the
training, in its place, and of a step that is committed already. Of each kind and fault some trials go on with the
trainer itself, to the run's end, and are compared with the run that nothing befell. Exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
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
    CUTS, END, FAULTS, OF_KIND, Done, arm, cut_power, disarm, in_fork, read_journal, with_broken_disk)

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
    calls: int | None
    """random calls of each kind with each fault; None for all"""
    to_the_end: int
    """of each kind and fault so many trials go on with the trainer itself"""
    seed: int


def run(place: Path, plan: Plan, say: Callable[[str], None]) -> list[Trial]:
    """All trials, in clones of one training at its third save."""
    from dstrain.config.engine_json import engine_json
    from dstrain.config.load import load_recipe
    from dstrain.families import family_of
    from dstrain.runtime.checkpoint.saver import Saver
    from dstrain.train.trainer import train

    ranks = lone_rank_that_can_be_forked()
    (place / "run.yaml").write_text(RECIPE)
    (place / "corpus.txt").write_text("".join(f"line {n} says that {n} plus one is {n + 1}\n" for n in range(400)))
    (place / "valid.txt").write_text("one plus one is two\nand that is all\n")
    os.chdir(place)
    trials: list[Trial] = []
    recipe = load_recipe("run.yaml")
    recipe = replace(recipe, run=replace(recipe.run, dir=str(place / "straight")))
    config = engine_json(recipe, 1, "cpu", "zero1_fp32")
    keeps_all = replace(recipe, checkpoint=replace(recipe.checkpoint, keep=99))
    told = in_fork(lambda: train(keeps_all, family_of(recipe), config, ranks) and None, place, 300.0)
    assert told.how == "well", told
    inner, moments = Saver.save, []

    def save(saver: Any, state: dict, write_side_files: Callable, is_best: bool) -> None:
        saver.finish()
        moment = Moment(place, saver, state, write_side_files, is_best, recipe, config, ranks)
        moments.append(moment)
        if state["step"] == 6:
            from deepspeed_saves import DeepSpeedMoment
            deepspeed = DeepSpeedMoment(place, saver.engine, moments)
            for way in plan.ways:
                trials.extend(sweep(deepspeed if way in DEEPSPEED_WAYS else moment, way, plan, say))
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


def sweep(moment: Any, way: str, plan: Plan, say: Callable[[str], None]) -> Iterator[Trial]:
    """Every kind of operation, every call of it, every fault."""
    calls = Counter(one.kind for one in moment.dry_run(way))
    calls.update(moment.reads(way))
    chance, began = random.Random(f"{plan.seed} {way}"), time.monotonic()
    say(f"{way}: a save is " + ", ".join(f"{calls[kind]} {kind}" for kind in OF_KIND if calls[kind]))
    for kind, faults in OF_KIND.items():
        for fault in faults:
            numbers = list(range(1, calls[kind] + 1))
            if plan.calls is not None:
                numbers = sorted(chance.sample(numbers, min(plan.calls, len(numbers))))
            to_the_end = chance.sample(numbers, min(plan.to_the_end, len(numbers)))
            for number in numbers:
                yield moment.trial(way, kind, number, fault, number in to_the_end)
        say(f"{way}: {kind} done, {time.monotonic() - began:.0f} s")
    for fault in CUTS:
        yield moment.trial(way, END, 0, fault, plan.to_the_end > 0)


class Moment:
    """The training at a save, and what dstrain makes of it."""

    def __init__(self, place: Path, saver: Any, state: dict, write_side_files: Callable, is_best: bool, recipe: Any,
                 config: dict, ranks: Any):
        self.place, self.saver, self.state, self.recipe, self.config = place, saver, dict(state), recipe, config
        self.write_side_files, self.is_best, self.ranks = write_side_files, is_best, ranks
        self.number = 0
        self.tensors = tensors_of(saver.engine)

    def dry_run(self, way: str) -> list[Done]:
        trial = self.trial(way, "mkdir", 0, "none", False)
        assert trial.outcome == RIGHT and trial.published, trial
        return read_journal(self.work / "journal")

    def reads(self, way: str) -> dict[str, int]:
        """Opening and reading is not in the journal, for it changes nothing: found by asking for calls to break."""
        return {kind: last_call(lambda number, kind=kind: self.trial(way, kind, number, "none", False).path != "")
                for kind in ("open", "read")}

    def trial(self, way: str, kind: str, number: int, fault: str, to_the_end: bool) -> Trial:
        """Break it, look what is there, load it, save again."""
        self.number += 1
        self.work = work = self.place / f"trial{self.number % 2}"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.place / "base", work / "dir")
        final = work / "dir/run/checkpoints" / ("step_00000004" if way == WAYS[2] else "step_00000006")
        saved = in_fork(lambda: self._save(way, kind, number, fault), work, HANGS_AFTER_S)
        journal = read_journal(work / "journal")
        broken = next((one.path for one in journal if one.what == "broken"), "")
        if fault in CUTS:
            cut_power(journal, names_too=fault == CUTS[1])
        published = is_published(journal, str(final), fault == CUTS[1])
        words = "" if saved.result is None else saved.result["error"]
        trial = Trial(way, kind, number, fault, RIGHT, broken.removeprefix(f"{work}/dir/run/"), published, words)
        wrong = self._wrong_in_save(saved, trial, final)
        if wrong is None:
            expected = (4, "new") if way == WAYS[2] and published else (6, "new") if published else (4, "old")
            loaded = in_fork(lambda: self._load(way, *expected), work, HANGS_AFTER_S)
            wrong = loaded.result if loaded.how == "well" else f"loading {loaded.how}: {loaded.printed[-500:]}"
        if wrong is None and to_the_end and way != WAYS[2]:
            wrong = self._trains_to_the_end()
        return trial if wrong is None else trial._replace(outcome=wrong)

    def _save(self, way: str, kind: str, number: int, fault: str) -> dict:
        """In a clone: as the trainer saves, and looks at the end of a step what became of it."""
        from dstrain.config.errors import Trouble, UserError
        said: list[str] = []
        saver = self._new_saver(self.place_of_run / "checkpoints", way, said)
        state = {**self.state, "step": 4} if way == WAYS[2] else self.state
        error = kind_of_error = ""
        arm(self.work / "dir", "mkdir" if kind == END else kind, number, fault, self.work / "journal",
            self.work / "kept")
        try:
            saver.save(state, self.write_side_files, self.is_best)
            saver.finish()
        except (Trouble, UserError) as caught:
            error, kind_of_error = str(caught), "one line"
        except Exception as caught:  # a traceback for the user: told as what it is
            error, kind_of_error = f"{type(caught).__name__}: {caught}", "traceback"
        disarm()
        saver.close()
        return {"error": error, "kind": kind_of_error, "said": said}

    def _wrong_in_save(self, saved: Any, trial: Trial, final: Path) -> str | None:
        kills = trial.kind != END and (trial.fault.startswith("killed") or trial.fault in CUTS)
        if saved.how == "hung":
            return f"the save hung: {saved.printed[-500:]}"
        if kills != (saved.how == "killed"):
            return f"the save ended as {saved.how} instead: {saved.printed[-500:]}"
        if kills:
            return None
        result = saved.result
        if result["kind"] == "traceback":
            return f"a traceback: {result['error']}"
        if result["error"] and not well_said(result["error"], self.work):
            return f"an error that does not say it in a line: {result['error']}"
        if not result["error"] and not trial.published:
            return "the save went well but nothing is published"
        if not result["error"] and not any(line.startswith("saved") for line in result["said"]):
            return "the save went well but does not say so"
        if trial.fault != "none" and trial.kind != END and not trial.path:
            return "nothing was broken: there was no such call"
        return None

    def _load(self, way: str, step: int, which: str) -> str | None:
        """In a clone: as a run that goes on, up to the engine; then saves once more. What is wrong, or None."""
        from dstrain.families import family_of
        from dstrain.train.progress import Progress
        from dstrain.train.run_folder import RunFolder
        from dstrain.train.start import newest_checkpoint, open_tokenizer, set_back_to

        folder, family = RunFolder(self.place_of_run), family_of(self.recipe)
        progress = Progress(6, shown=True)
        loaded, recipe, _ = newest_checkpoint(folder, self.recipe, family, self.config, self.ranks, progress)
        if loaded is None:
            return "nothing was loaded"
        truth = self.tensors if which == "new" else self.tensors_at_4
        if loaded.state["step"] != step:
            return f"step {loaded.state['step']} was loaded instead of {step}"
        if (wrong := other_tensors(loaded, truth)) is not None:
            return f"{which} tensors of step {step}: {wrong}"
        state = {**self.state, "step": 4} if which == "new" and way == WAYS[2] else (
            self.state if which == "new" else self.state_at_4)
        if {name: loaded.state[name] for name in state} != json.loads(json.dumps(state)):
            return f"the state of step {step} is another"
        tokenizer = open_tokenizer(recipe, family, loaded, folder, progress, self.ranks)
        if tokenizer.encode("line 7 says").tolist() != self.ids:
            return "the tokenizer is another"
        set_back_to(loaded, progress, self.ranks)
        return self._save_again(folder, way, loaded, truth)

    def _save_again(self, folder: Any, way: str, loaded: Any, truth: dict) -> str | None:
        """The next save must succeed, and keep what was loaded; nothing of the broken one is left."""
        from dstrain.runtime.checkpoint.folder import committed, newest_good
        from dstrain.runtime.checkpoint.loading import load
        from dstrain.runtime.checkpoint.manifest import verify
        said: list[str] = []
        saver = self._new_saver(folder.checkpoints, way, said)
        saver.save({**self.state, "step": 8}, self.write_side_files, False)
        saver.finish()
        newest = newest_good(folder.checkpoints, self.ranks, said.append)
        if newest is None or newest.name != "step_00000008":
            return f"after the next save, {newest} is the newest: {said}"
        for checkpoint, tensors in ((newest, self.tensors), (loaded.folder, truth)):
            checkpoint = folder.checkpoints / checkpoint.name.removeprefix(".replaced_")
            wrong = verify(checkpoint) or other_tensors(load(checkpoint), tensors)
            if wrong is not None:
                return f"after the next save, {checkpoint.name}: {wrong}"
        left = [path.name for path in folder.checkpoints.iterdir()
                if path not in committed(folder.checkpoints) and path.name not in ("latest", "best")]
        left = [name for name in left if not name.startswith("damaged_")]
        return f"after the next save, there is {left}" if left else None

    def _trains_to_the_end(self) -> str | None:
        """The same command goes on, with an engine of its own; compared with the run that nothing befell."""
        from dstrain.doctor.proofs.resume import compare_runs
        from dstrain.families import family_of
        from dstrain.train.trainer import train
        shutil.rmtree(self.work / "dir")
        shutil.copytree(self.place / "base", self.work / "dir")
        recipe = replace(self.recipe, run=replace(self.recipe.run, dir=str(self.work / "dir")))
        told = in_fork(lambda: train(recipe, family_of(recipe), self.config, self.ranks) and None, self.work, 300.0)
        if told.how != "well":
            return f"going on {told.how}: {told.printed[-500:]}"
        shutil.rmtree(self.place / "straight/run/checkpoints/step_00000002", ignore_errors=True)  # here it was pruned
        differences, _ = compare_runs(self.place / "straight", self.work / "dir", recipe)
        return f"the run that went on differs: {differences[:3]}" if differences else None

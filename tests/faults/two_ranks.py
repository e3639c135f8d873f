"""The broken disk on one of two ranks: all end with one line, and the run that goes on is the run that nothing befell.

    python tests/faults/two_ranks.py                 # 40 random faults, about ten minutes
    python tests/faults/two_ranks.py 12 7            # so many, from another seed

Two real ranks train with ZeRO-2 and dropout, saving beside the training; in the save of step 4 one random call of one
rank meets one random fault (broken_disk.py). The other rank must not hang; the next start must go on from step 4 if
that was published, else from step 2; and the finished run is compared with the undisturbed one, bit for bit.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from broken_disk import OF_KIND, arm, disarm, read_journal, with_broken_disk  # noqa: E402

FAULTS = ("killed before", "killed after", "no space", "I/O error", "half, then error", "half, said", "half, unsaid")
HANGS_AFTER_S = 120.0


def trains(ranks: Any, recipe: Any, rank: int, kind: str, number: int, fault: str, work: Path) -> dict:
    """A whole training; on one rank the disk is armed during the save of step 4. Runs in the ranks' own processes."""
    from dstrain.config.engine_json import engine_json
    from dstrain.families import family_of
    from dstrain.runtime.checkpoint.saver import Saver
    from dstrain.train.trainer import train
    inner, error, printed = Saver.save, "", io.StringIO()

    def save(saver: Any, state: dict, *more: Any, **named: Any) -> None:
        saver.finish()
        if ranks.rank == rank:
            disarm()
            if state["step"] == 4:
                arm(work / "dir", kind, number, fault, work / "journal", work / "kept")
        inner(saver, state, *more, **named)

    Saver.save = save
    try:
        with contextlib.redirect_stdout(printed):
            train(recipe, family_of(recipe), engine_json(recipe, ranks.world, "cpu", "zero2_fp32"), ranks)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    finally:
        disarm()
        Saver.save = inner
    return {"error": error, "printed": printed.getvalue()}


class TwoRanks:
    """A run of two ranks, undisturbed, and trials that compare with it."""

    def __init__(self, place: Path):
        import file_operations

        from dstrain.config.load import load_recipe
        self.place, self.group = place, None
        file_operations.lay_out(place)
        os.chdir(place)
        recipe = load_recipe("run.yaml")
        self.recipe = replace(recipe, checkpoint=replace(recipe.checkpoint, keep=99))
        told = self._train(place / "straight", 0, "mkdir", 0, "none", place)
        assert not any(one["error"] for one in told), told
        self.calls = [self._calls_of(rank) for rank in range(2)]

    def trial(self, rank: int, kind: str, number: int, fault: str) -> tuple[str, str]:
        """(what was wrong, or nothing; how the run with the fault ended)"""
        from dstrain.doctor.proofs.resume import compare_runs
        from dstrain.runtime.rank_group import RankError
        work = self._fresh()
        try:
            told = self._train(work / "dir", rank, kind, number, fault, work)
            errors = [one["error"] for one in told]
            ended = errors[rank] or errors[1 - rank] or "finished"
        except RankError as error:
            errors, ended = [], str(error).strip().splitlines()[-1]
        journal = read_journal(work / "journal")
        if not any(one.what == "broken" for one in journal):
            return "nothing was broken", ended
        if fault.startswith("killed") != ("died" in ended):
            return f"it ended with: {ended}", ended
        if errors and bool(errors[0]) != bool(errors[1]):
            return f"only one rank ended: {errors}", ended
        if errors and errors[0] and not ("Trouble" in errors[rank] and "\n" not in errors[rank]):
            return f"not in one line: {errors}", ended
        there = (work / "dir/run/checkpoints/step_00000004").is_dir()
        told = self._train(work / "dir", 0, "mkdir", 0, "none", work / "again")
        goes_on = f"goes on from {work}/dir/run/checkpoints/step_{4 if there else 2:08d}"
        if any(one["error"] for one in told):
            return f"going on: {told}", ended
        if ended != "finished" and goes_on not in told[0]["printed"]:
            return f"it does not go on from step {4 if there else 2}: {told[0]['printed']}", ended
        differences, compared = compare_runs(self.place / "straight", work / "dir", self.recipe)
        assert compared > 15
        return f"{differences[:3]} differ" if differences else "", ended

    def _train(self, folder: Path, *fault: Any) -> list[dict]:
        from two_ranks import trains  # by its own name: the ranks do not know this program's __main__

        from dstrain.runtime.rank_group import RankGroup
        if self.group is None or not self.group.alive:
            self.group = RankGroup(2)
        recipe = replace(self.recipe, run=replace(self.recipe.run, dir=str(folder)))
        return self.group.run(trains, recipe, *fault, timeout_s=HANGS_AFTER_S)

    def _calls_of(self, rank: int) -> Counter:
        work = self._fresh()
        self._train(work / "dir", rank, "mkdir", 0, "none", work)
        return Counter(one.kind for one in read_journal(work / "journal"))

    def _fresh(self) -> Path:
        work = self.place / "work"
        shutil.rmtree(work, ignore_errors=True)
        (work / "dir").mkdir(parents=True)
        return work

    def close(self) -> None:
        if self.group is not None:
            self.group.close()


def main() -> int:
    count, seed = (int(sys.argv[1]) if sys.argv[1:] else 40), (int(sys.argv[2]) if sys.argv[2:] else 1)
    with_broken_disk(sys.argv)
    chance, began, outcomes, wrong = random.Random(seed), time.monotonic(), Counter(), 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    place = Path(tempfile.mkdtemp(prefix="dstrain-two-ranks-", dir=memory)).resolve()
    ranks = TwoRanks(place)
    try:
        print("calls in a save: " + "; ".join(f"rank {rank}: {dict(calls)}" for rank, calls in enumerate(ranks.calls)))
        for done in range(count):
            rank = done % 2
            kind = chance.choice([kind for kind in OF_KIND if ranks.calls[rank][kind]])
            fault = chance.choice([fault for fault in OF_KIND[kind] if fault in FAULTS])
            number = chance.randint(1, ranks.calls[rank][kind])
            fault_words, ended = ranks.trial(rank, kind, number, fault)
            wrong += bool(fault_words)
            outcomes["killed" if "died" in ended else ended.split(":")[0]] += 1
            print(f"{done + 1:>3} rank {rank}, {fault} at {kind} {number}: {ended[:160]}"
                  + (f"; WRONG: {fault_words}" if fault_words else ""), flush=True)
    finally:
        ranks.close()
        os.chdir("/")
        shutil.rmtree(place)
    print(f"{count} faults on one of two ranks: {wrong} WRONG; the runs ended: {dict(outcomes)}; "
          f"{time.monotonic() - began:.0f} s, seed {seed}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

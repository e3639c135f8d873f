"""DeepSpeed's own saving under the same faults: engine.save_checkpoint(folder), then engine.load_checkpoint(folder).

    python tests/faults/deepspeed_saves.py            # as file_operations.py, DeepSpeed's half alone

Nothing of DeepSpeed or PyTorch is replaced: the faults sit below both, in the C library's open, write, rename ... of
the process (broken_disk.c), which PyTorch's C++ file writer goes through as well. It is the same engine, at the same
three moments of the same training, in clones of the same process. After a save that failed or was killed, the state
that was committed before is as good as the new one; after a save that returned, only the new one will do. Before it
loads, the engine is filled with noise, so that what was not loaded shows.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from broken_disk import (  # noqa: E402  (the folder of this file is not that of a package)
    CUTS, END, arm, cut_power, disarm, in_fork, read_journal, with_broken_disk)

OLDER, SCRATCH, ERROR, MIXED, CRASH = (
    "older state", "nothing, silently (from scratch)", "nothing, an error", "wrong state, silently", "crash or hang")
FOLDER = "deepspeed"
LOADS_WITHIN_S = 60.0


def save_with_deepspeed(engine: Any, place: Path, tag: str | None = None) -> None:
    engine.deepspeed.save_checkpoint(str(place / FOLDER), tag=tag)


class DeepSpeedMoment:
    """The training at its third save, and what DeepSpeed makes of it."""

    def __init__(self, place: Path, engine: Any, moments: list[Any]):
        self.place, self.engine, self.trials = place, engine, 0
        self.digests = [moment.digest for moment in moments]  # of steps 2, 4 and 6

    def trial(self, way: str, kind: str, number: int, fault: str, to_the_end: bool) -> Any:
        from file_operations import RIGHT, Trial
        self.trials += 1
        self.work = work = self.place / f"deepspeed{self.trials % 2}"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.place / FOLDER, work / FOLDER)
        tag = "global_step4" if way.endswith("same tag") else None
        saved = in_fork(lambda: self._save(kind, number, fault, tag), work, LOADS_WITHIN_S)
        journal = read_journal(work / "journal")
        if fault in CUTS:
            cut_power(journal, names_too=fault == CUTS[1])
        broken = next((one.path for one in journal if one.what == "broken"), "")
        complete = saved.how == "well"
        outcome = CRASH if saved.how == "hung" else self.load(complete)
        by_hand = outcome != RIGHT and self.load(False, "global_step4") == RIGHT
        return Trial(way, kind, number, fault, outcome, broken.removeprefix(f"{work}/"), complete,
                     saved.how if saved.how in ("well", "killed") else saved.how.strip().splitlines()[-1], by_hand)

    def load(self, complete: bool, tag: str | None = None, folder: Path | None = None) -> str:
        """What load_checkpoint makes of the folder. `complete`: the third save returned, so it must be that."""
        from file_operations import RIGHT
        loaded = in_fork(lambda: self._load(folder or self.work / FOLDER, tag), self.work, LOADS_WITHIN_S)
        if loaded.how == "hung" or loaded.how.startswith(("crashed", "killed")):
            return CRASH
        if loaded.how != "well":
            return ERROR
        if loaded.result is None:
            return SCRATCH
        if loaded.result not in self.digests:
            return MIXED
        number = self.digests.index(loaded.result)
        return RIGHT if number == 2 or (number == 1 and not complete) else OLDER

    def _save(self, kind: str, number: int, fault: str, tag: str | None) -> None:
        arm(self.work / FOLDER, "mkdir" if kind == END else kind, number, "none" if kind == END else fault,
            self.work / "journal", self.work / "kept")
        save_with_deepspeed(self.engine, self.work, tag)
        disarm()

    def _load(self, folder: Path, tag: str | None) -> str | None:
        fill_with_noise(self.engine)
        path, _ = self.engine.deepspeed.load_checkpoint(str(folder), tag=tag)
        return None if path is None else digest_of(self.engine)


def digest_of(engine: Any) -> str:
    """Of all that DeepSpeed's checkpoint should bring back: masters, moments, updates, and the module's own weights."""
    digest = hashlib.sha256(str((engine.optimizer_step(), engine.deepspeed.global_steps)).encode())
    for fragment in engine.own_fragments():
        for values in (fragment.weight, *fragment.moments.values()):
            digest.update(values.detach().numpy().tobytes())
    for _, parameter in sorted(engine.trainee.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def fill_with_noise(engine: Any) -> None:
    import torch
    with torch.no_grad():
        for fragment in engine.own_fragments():
            for values in (fragment.weight, *fragment.moments.values()):
                values.uniform_()
        for _, parameter in engine.trainee.named_parameters():
            parameter.uniform_()
    engine.set_optimizer_step(999)


if __name__ == "__main__":
    with_broken_disk(sys.argv)
    import file_operations
    sys.argv += ["--mutants", "--ways", *file_operations.DEEPSPEED_WAYS]
    sys.exit(file_operations.main())

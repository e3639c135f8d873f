"""`dstrain postmortem`: why a run ended, what is kept of it and what to do, and how its earlier attempts ended."""

from __future__ import annotations

import json
import time
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.guard.postmortem import Ending, earlier_endings, find_ending
from dstrain.runtime.checkpoint.folder import DAMAGED, HAS_COMMITTED, committed, step_of
from dstrain.runtime.checkpoint.manifest import Damaged, Unreadable, promises
from dstrain.train.run_folder import RunFolder

REMEDIES = {
    "out of memory": "it needs more memory, or has to use less: a smaller batch.micro_rows (the model learns the same) "
                     "or model.checkpoint_activations=true; more ranks or offload for the optimizer's share",
    "disk full": "make room first, or less of it is needed with a smaller checkpoint.keep",
    "disk trouble": "see to the disk first",
    "data error": "mend first what it names",
    "NaN": "the same again gives the same: try a smaller optim.lr or a longer schedule.warmup_steps",
    "stuck": "the stacks of all ranks' threads are in {box}: they say what it waited for; look at that host and its "
             "network",
    "stopped": "see who stopped that process",
    "node lost": "leave that machine out until somebody has looked at it",
    "lost a rank": "see to the network first",
    "mistake": "mend first what it names",
    "killed": "see who killed it: a person, a batch system (limits of time and memory), the kernel for want of memory "
              "(dmesg)",
    "killed while leaving": "it needs more time between the request and the kill than a step and a save take (Slurm: "
                            "--signal=B:USR1@SECONDS, or run.max_minutes)",
    "all lost": "see what the batch system or the machine's log says",
    "crashed": "the stacks of its threads are in {box}",
    "trouble": "mend first what it names",
    "error": "its traceback is in what the job printed",
}


def postmortem_command(run: Path) -> int:
    folder = RunFolder(run)
    if not run.is_dir():
        raise UserError(f"{run}: there is no such folder; a run folder is asked for, such as runs/quickstart")
    ending, earlier = find_ending(run), earlier_endings(run)
    if ending is None and not earlier:
        raise UserError(f"{run} has no black box: it is no run folder, or an older dstrain trained there")
    if ending is None:
        print(f"{run}: of the newest attempt there is no record; it ended while it was started, or is about to start.")
    elif ending.cause == "running":
        print(f"{run}: {ending.sentence}; since {_when(ending.started)}.")
    else:
        print(f"{run}, {_when(ending.ended)}: {ending.sentence}{'' if ending.sentence.endswith('...') else '.'}")
        print(" ".join(filter(None, (_kept(folder, ending), _again(ending, earlier), _loss_before(folder, ending)))))
    if earlier:
        print("\nearlier attempts:")
    for one in earlier:
        print(f"  {_when(one.ended)}  step {one.step}: {one.sentence}")
    return 0


def _kept(folder: RunFolder, ending: Ending) -> str:
    """What the same command goes on from, and what to do before it."""
    there = committed(folder.checkpoints)
    remedy = REMEDIES.get(ending.cause, "").format(box=folder.path / "blackbox" / "rank_*.stack")
    remedy = f" {remedy[0].upper()}{remedy[1:]}." if remedy else ""
    if not there:
        if has_had_some(folder):
            return ("No checkpoint is there any more, although there were some: the same command is refused; bring "
                    f"them back, or start over with --fresh.{remedy}")
        return f"No checkpoint was committed yet: the same command starts from the beginning.{remedy}"
    try:
        kept, passed_over = newest_that_may_be_good(there)
    except Unreadable as fault:
        return (f"A checkpoint of {folder.checkpoints} cannot be read: {fault}; see to the disk: the same command is "
                f"refused until it can be read.{remedy}")
    if kept is None:
        return (f"No checkpoint is whole ({'; '.join(passed_over)}): the same command is refused; restore one, or "
                f"start over with --fresh.{remedy}")
    skipped = f" Damaged and passed over: {'; '.join(passed_over)}." if passed_over else ""
    if ending.cause == "finished":
        return f"Its newest checkpoint is {kept}; more steps with run.steps=...{skipped}"
    lost = ending.step - step_of(kept)
    again = f", and trains {lost} step{'s' if lost > 1 else ''} again" if lost > 0 else ": no step is lost"
    return (f"Kept is {kept.name} (its bytes are checked when it is loaded, or by dstrain verify): the same command "
            f"goes on from it{again}.{skipped}{remedy}")


def has_had_some(folder: RunFolder) -> bool:
    """Then a start that finds none takes it for no beginning."""
    return (folder.path / HAS_COMMITTED).exists() or any(folder.checkpoints.glob(f"{DAMAGED}step_*"))


def newest_that_may_be_good(there: list[Path]) -> tuple[Path | None, list[str]]:
    """By manifest and sizes, which is cheap; and what is wrong with the newer ones."""
    passed_over = []
    for candidate in reversed(there):
        try:
            promises(candidate)
        except Unreadable:  # the next start takes nothing older in its place
            raise
        except Damaged as fault:
            passed_over.append(f"{candidate.name}: {fault}")
            continue
        return candidate, passed_over
    return None, passed_over


def _again(ending: Ending, earlier: list[Ending]) -> str:
    """The same end at the same place, time and again, is no accident."""
    same = 1
    for one in reversed(earlier):
        if (one.cause, one.step) != (ending.cause, ending.step):
            break
        same += 1
    if same == 1 or ending.cause in ("finished", "left", "interrupted"):
        return ""
    return f"It ended this way at this step {same} times in a row: going on will not help before it is mended."


def _loss_before(folder: RunFolder, ending: Ending) -> str:
    """Where gradients became NaN, the last losses that were numbers say how it went there."""
    if ending.cause != "NaN" or not folder.metrics.is_file():
        return ""
    last = None
    for line in folder.metrics.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record.get("loss"), float) and abs(record["loss"]) < float("inf") and not record.get("skipped"):
            last = record
    if last is None:
        return ""
    return f"The last step before that was step {last['step']}, with a loss of {last['loss']:.4g}."


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))

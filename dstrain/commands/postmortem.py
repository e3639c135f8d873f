"""`dstrain postmortem`: why a run ended, what is left of it, and how its earlier attempts ended."""

from __future__ import annotations

import time
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.guard.postmortem import find_ending, remedy
from dstrain.runtime.checkpoint.folder import committed
from dstrain.train.run_folder import read_lines

GOES_ON = {"finished": None, "running": None}


def postmortem_command(run: Path) -> int:
    if not run.is_dir():
        raise UserError(f"{run}: there is no such run folder")
    ending = find_ending(run)
    if ending is None:
        raise UserError(f"{run} has no black box: nothing was trained there by `dstrain train`, or by an older one")
    print(f"{_when(ending.ended)}  {ending.sentence[0].upper()}{ending.sentence[1:]}.")
    if ending.cause not in ("finished", "running"):
        what = remedy(ending.cause)
        print(f"{'':21}{_kept(run)}" + (f"; {what}" if what else "") + ".")
    earlier = read_lines(run / "endings.jsonl") if (run / "endings.jsonl").is_file() else []
    if earlier:
        print("before that:")
    for line in earlier:
        print(f"  {_when(line['ended'])}  step {line['step']}: {line['cause']}: {line['sentence']}")
    return 0


def _kept(run: Path) -> str:
    there = committed(run / "checkpoints")
    return (f"the same command goes on from {there[-1].name}, and what was committed is kept" if there
            else "no checkpoint was committed yet: the same command starts again")


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))

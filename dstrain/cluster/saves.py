"""How long a run takes to save and leave, as it showed last: whether the time between signal and limit is enough."""

from __future__ import annotations

import re
from pathlib import Path

from dstrain.cluster.request import Request
from dstrain.cluster.slurm_time import slurm_time
from dstrain.config.errors import UserError
from dstrain.guard.blackbox import read_records

LEAST_TRAINING_S = 60


def check_times(request: Request, run_folder: Path) -> str:
    """In words. Slurm looks at limits about every 30 s; it may also send the signal up to 60 s too early."""
    if request.time_s < request.signal_before_s + LEAST_TRAINING_S:
        raise UserError(f"--time {slurm_time(request.time_s)}: the job would be told to leave "
                        f"{request.signal_before_s} s before its end (--signal-before), which leaves it no time to "
                        f"train; ask for more time, or a smaller --signal-before")
    needs_s, why = leaving_takes_s(run_folder)
    if needs_s > request.signal_before_s:
        raise UserError(f"--signal-before {request.signal_before_s}: {why}, so leaving takes up to {needs_s:.0f} s "
                        f"and would be cut off by the time limit; give --signal-before {_round_up(needs_s)}")
    return (f"up to {slurm_time(request.time_s)} a job, told to save and leave {request.signal_before_s} s before"
            + (f" ({why})" if why else ""))


def leaving_takes_s(run_folder: Path) -> tuple[float, str]:
    """What the trainer itself reckons with (a step in progress, one more, a save), and on what it is based."""
    save_s, steps = last_save_s(run_folder), [record.slowest_step_s for record in read_records(run_folder)]
    step_s = max((step for step in steps if isinstance(step, (int, float))), default=0.0)
    if not save_s and not step_s:
        return 0.0, ""
    return (2 * step_s + 1.5 * save_s + 5.0,
            f"its last save took {save_s:.1f} s" + (f", its slowest step {step_s:.1f} s" if step_s else ""))


def last_save_s(run_folder: Path) -> float:
    """From the first file of the newest checkpoint to the last: the manifest's guard is written when all is checked."""
    folder = run_folder / "checkpoints"
    try:
        names = sorted(path.name for path in folder.iterdir() if re.fullmatch(r"step_\d{8}", path.name))
        times = [path.stat().st_mtime for path in (folder / names[-1]).rglob("*") if path.is_file()] if names else []
    except OSError:  # being pruned at this moment, or not readable: then nothing is known
        return 0.0
    return max(times) - min(times) if times else 0.0


def _round_up(seconds: float) -> int:
    return 30 * (int(seconds) // 30 + 1)

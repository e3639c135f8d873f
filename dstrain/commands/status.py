"""`dstrain status`: how runs stand, in one table. Reads only, and of long files only their ends."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dstrain.cluster import slurm
from dstrain.cluster.run_look import Look, is_run_folder, look_at
from dstrain.cluster.script import NEWEST_LOG
from dstrain.cluster.slurm_time import in_words
from dstrain.cluster.standing import Standing, standing
from dstrain.cluster.table import WIDTH, row_of, table
from dstrain.config.errors import UserError

RUNS = Path("runs")
RECENT_S = 86400.0
AT_ONCE = 8
"""folders that are looked at side by side: on a network disk each look is a wait"""


def status_command(runs: list[str], every: bool) -> int:
    folders = _given(runs) if runs else _below(RUNS)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        looks = list(threads.map(look_at, folders))
        jobs = slurm.jobs(number for look in looks for number in _jobs_of(look))
        standings = list(threads.map(lambda look: standing(look, jobs or {}), looks))
    shown = list(zip(looks, standings))
    if not runs:
        shown.sort(key=lambda pair: (not pair[1].is_live, _age_s(pair[0])))
    left_out = [] if runs or every else [pair for pair in shown if not _is_recent(*pair)]
    shown = [pair for pair in shown if pair not in left_out]
    if shown:
        print("\n".join(table([row_of(look, _name(look, runs), state.short) for look, state in shown])))
    if jobs is None:
        print("Slurm does not answer here: what its jobs do is not known")
    if left_out:
        print(f"{len(left_out)} run(s) in {RUNS} without a sign for more than {in_words(RECENT_S)}: dstrain status "
              f"--all")
    if len(shown) == 1 and runs:
        print("".join(f"{line}\n" for line in _more(*shown[0])), end="")
    return 0


def _given(runs: list[str]) -> list[Path]:
    for run in runs:
        path = Path(run)
        if not path.is_dir():
            raise UserError(f"{run}: there is no such folder; a run folder is asked for, such as runs/quickstart")
        if not is_run_folder(path):
            inside = next((below for below in sorted(path.iterdir()) if is_run_folder(below)), None)
            hint = f"did you mean {inside}?" if inside else "a run folder is made by dstrain train or dstrain submit"
            raise UserError(f"{run}: no run folder (it has no recipe.yaml, metrics.jsonl, checkpoints or "
                            f"slurm/jobs.jsonl); {hint}")
    return list(map(Path, runs))


def _below(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.iterdir()) if is_run_folder(path)] if folder.is_dir() else []
    if not found:
        raise UserError(f"there is no run in {folder.absolute()}: run this where you train from, or name run folders")
    return found


def _jobs_of(look: Look) -> list[str]:
    job = look.holder.slurm_job if look.holder else None
    return [*look.noted, *([job] if job and job.isdigit() else [])]


def _name(look: Look, runs: list[str]) -> str:
    """The folder's own, where that says it."""
    names = [Path(run).resolve().name for run in runs]
    return str(look.folder) if names.count(look.folder.resolve().name) > 1 else look.folder.resolve().name


def _age_s(look: Look) -> float:
    return float("inf") if look.sign_age_s is None else look.sign_age_s


def _is_recent(look: Look, state: Standing) -> bool:
    return state.is_live or _age_s(look) <= RECENT_S


def _more(look: Look, state: Standing) -> list[str]:
    """Of one run alone there is room for whole sentences."""
    log = look.folder / "slurm" / NEWEST_LOG
    return [*textwrap.wrap(state.long, WIDTH),
            *([f"log: tail -F {log}"] if log.is_symlink() or log.exists() else []),
            *([] if state.is_live or look.is_finished else [f"why: dstrain postmortem {look.folder}"])]

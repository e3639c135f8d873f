"""How a run stands, in a few words: trains, waits in the queue, or how it ended. From its folder and from Slurm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from dstrain.cluster.run_look import Look, ending_of
from dstrain.cluster.slurm import Job, of_number
from dstrain.cluster.slurm_time import in_words

SILENT_S = 120.0
"""an observer writes every few seconds; files of other machines show up to a minute late"""
GOOD_ENDS = ("finished", "left")


@dataclass(frozen=True)
class Standing:
    short: str
    """for a table"""
    long: str
    """in whole sentences; '' where there is no more to say"""
    is_live: bool
    """it trains, or waits to"""


def standing(look: Look, jobs: Mapping[str, Job]) -> Standing:
    """`jobs`: what Slurm says of those that were submitted for the run and of the one that trained last."""
    holder = look.holder
    numbers = [*([holder.slurm_job] if holder and holder.slurm_job else []), *look.noted]
    known = list({job.number: job for number in numbers for job in of_number(number, jobs)}.values())
    running = next((job for job in reversed(known) if not job.is_over and not job.is_queued), None)
    if running is not None:
        return _running(look, running)
    if holder is not None and holder.is_alive:
        return Standing(f"trains: {holder}{_silence(look.sign_age_s)}", "", True)
    waiting = next((job for job in known if job.is_queued), None)
    if waiting is not None:
        why = f" ({waiting.reason})" if waiting.reason else ""
        return Standing(f"job {waiting.number} waits{why}", "", True)
    if holder is not None and holder.is_alive is None and not _has_job(look, jobs) and (
            look.sign_age_s is not None and look.sign_age_s < SILENT_S and not look.is_finished):
        ending = ending_of(look.folder)
        if ending is None or ending.cause in ("all lost", "node lost", "killed", "crashed", "running"):
            return Standing(f"trains: {holder}", "", True)
    return _ended(look, known, jobs)


def _running(look: Look, job: Job) -> Standing:
    ages = [age for age in (look.sign_age_s, job.used_s) if age is not None]
    silent = _silence(min(ages, default=None))
    ends = f", its time limit is in {in_words(job.left_s)}" if job.left_s is not None else ""
    state = "runs" if job.state == "RUNNING" else job.state.lower()
    return Standing(f"job {job.number} {state} on {job.where}{silent}",
                    f"job {job.number} is {job.state} on {job.where}{ends}", True)


def _ended(look: Look, known: list[Job], jobs: Mapping[str, Job]) -> Standing:
    ending = ending_of(look.folder)
    started = [job for job in known if job.where]  # what was cancelled in the queue tells nothing of the run
    last = started[-1] if started else known[-1] if known else None
    trained = jobs.get(look.holder.slurm_job) if look.holder and look.holder.slurm_job else None
    if last is not None and last.state != "COMPLETED" and not look.is_finished and (
            trained is None or trained.number != last.number):  # it ended before it came to train
        return Standing(f"job {last.number} {last.state.lower()}", f"job {last.number} ended as {last.state} before it "
                        f"trained; its log says why", False)
    if ending is not None:
        when = f"{in_words(max(0.0, time.time() - ending.ended))} ago"
        job = f" (job {last.number} {last.state.lower()})" if last and ending.cause not in GOOD_ENDS else ""
        return Standing(f"{ending.cause}, {when}{job}", f"{ending.sentence} ({when})", False)
    if look.is_finished:
        return Standing("finished", "", False)
    if last is not None:
        return Standing(f"job {last.number} {last.state.lower()}", "", False)
    return Standing("not begun" if look.step is None else "not running", "", False)


def _has_job(look: Look, jobs: Mapping[str, Job]) -> bool:
    """Whether Slurm was able to say how the training's job stands."""
    return bool(look.holder and look.holder.slurm_job in jobs)


def _silence(age_s: float | None) -> str:
    return f", no sign for {in_words(age_s)}" if age_s is not None and age_s > SILENT_S else ""

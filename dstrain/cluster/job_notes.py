"""runs/NAME/slurm/jobs.jsonl: which jobs were submitted for a run, one JSON object a line, newest last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_ASKED = 20
"""of the newest: older ones are history"""


def notes_path(run_folder: Path) -> Path:
    return run_folder / "slurm" / "jobs.jsonl"


def note_job(run_folder: Path, job: str, **about: Any) -> None:
    path = notes_path(run_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps({"job": job, **about}) + "\n")


def noted_jobs(run_folder: Path) -> list[str]:
    """The newest of them, oldest first; torn lines are left out."""
    try:
        lines = notes_path(run_folder).read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines[-MOST_ASKED:]:
        try:
            job = json.loads(line)["job"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(job, str) and job.replace("_", "").isdigit():
            found.append(job)
    return found

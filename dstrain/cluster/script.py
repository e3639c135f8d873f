"""The batch script of one submission: directives, what the job's body reads from the environment, and the hand-over."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dstrain.cluster.request import Request
from dstrain.cluster.slurm_time import slurm_time
from dstrain.config.errors import UserError
from dstrain.config.hints import shown

CARRIED = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TIKTOKEN_CACHE_DIR",
           "DSTRAIN_CONTAINER", "DSTRAIN_GIVE_UP")
"""variables of this shell that the checks or the job's body go by: written down, so that the script stands alone"""
NEWEST_LOG = "newest.log"


@dataclass(frozen=True)
class Files:
    """Of one submission; all absolute."""

    repository: Path
    working_folder: Path
    """where the recipe's relative paths start"""
    script: Path
    recipes: tuple[Path, ...]
    """one a run, frozen: what was checked is what will train"""
    run_folders: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        return self.script.parent


def batch_script(request: Request, files: Files, job_name: str, command: Sequence[str],
                 environment: Mapping[str, str], written_at: str) -> str:
    """`command`: what the user typed, for who reads the script later."""
    is_array = request.sweep is not None or request.chain > 1
    log = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if is_array else "$SLURM_JOB_ID"
    carried = {name: environment[name] for name in CARRIED if name in environment}
    lines = ["#!/usr/bin/env bash",
             f"# Written on {written_at} by: {_one_line(shlex.join(command))}",
             *_directives(request, files, job_name),
             "set -euo pipefail",
             "",
             f"export DSTRAIN_LAUNCHER={request.launcher} RANKS_PER_NODE={request.ranks_per_node}",
             *([] if request.gpus else ["export DS_ACCELERATOR=cpu"]),
             *(["export DSTRAIN_CHAIN=yes"] if request.chain > 1 else []),
             *(f"export {name}={shlex.quote(value)}" for name, value in carried.items())]
    if request.sweep is not None:
        lines += ["recipes=(", *(f"    {shlex.quote(str(path))}" for path in files.recipes), ")",
                  'recipe=${recipes[$SLURM_ARRAY_TASK_ID]}']
    else:
        lines += [f"recipe={shlex.quote(str(files.recipes[0]))}"]
    newest = f'"$(dirname "$recipe")/{NEWEST_LOG}"'
    lines += ["# The newest log under one name, for tail -F: a requeued job may log on another node.",
              f'ln -sfn {shlex.quote(str(files.folder))}/"{log}-$SLURMD_NODENAME.log" {newest}',
              f'exec bash {shlex.quote(str(files.repository / "slurm" / "job.sh"))} "$recipe"']
    return "\n".join(lines) + "\n"


def _directives(request: Request, files: Files, job_name: str) -> list[str]:
    # One task a rank, or one a node, which starts the node's ranks. That one is left unsaid: with it, Slurm (22.05)
    # gives a job of 2-4 nodes never more than 2.
    tasks = request.ranks_per_node if request.launcher == "srun" else 1
    nodes = (f"{request.fewest_nodes}" if request.fewest_nodes == request.most_nodes else
             f"{request.fewest_nodes}-{request.most_nodes}")
    array = (f"0-{len(files.recipes) - 1}" if request.sweep is not None else
             f"0-{request.chain - 1}%1" if request.chain > 1 else None)
    given = {
        "job-name": job_name,
        "chdir": _quoted(files.working_folder),
        "nodes": nodes,
        "ntasks-per-node": tasks if tasks > 1 else None,
        "cpus-per-task": request.cpus // tasks,
        "gpus-per-node": request.gpus or None,
        "mem": request.memory,
        "time": slurm_time(request.time_s),
        "partition": request.partition,
        "account": request.account,
        "array": array,
        "signal": f"B:USR1@{request.signal_before_s}",
        "open-mode": "append",
        "output": _quoted(files.folder) + ("/%A_%a-%N.log" if array else "/%j-%N.log"),
    }
    return [f"#SBATCH --{name}={value}" for name, value in given.items() if value is not None] + ["#SBATCH --requeue"]


def _quoted(path: Path) -> str:
    """As sbatch reads directives and file names: with no quotes to be undone, and no sign that it would replace."""
    text = os.fspath(path)
    odd = [letter for letter in text if letter in "%\\\"'" or not letter.isprintable()]
    if odd:
        raise UserError(f"{shown(text)}: has the sign {odd[0]!r}, which Slurm would read as something else; choose "
                        f"another folder")
    return text.replace(" ", "\\ ")


def _one_line(text: str) -> str:
    return " ".join(text.split())

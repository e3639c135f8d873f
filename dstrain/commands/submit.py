"""`dstrain submit`: checks a job before the queue, writes its batch script, hands it in, and says how to follow it."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.parse
import urllib.request
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import yaml

from dstrain.cluster import slurm
from dstrain.cluster.holder import holder_of, is_held
from dstrain.cluster.job_notes import note_job, noted_jobs
from dstrain.cluster.needs import Libraries, Needs, needs_of
from dstrain.cluster.partition import Fit, fitted
from dstrain.cluster.ranks import shapes_in_words
from dstrain.cluster.request import Request, request_of
from dstrain.cluster.saves import check_times
from dstrain.cluster.script import NEWEST_LOG, Files, batch_script
from dstrain.cluster.shared import SeenByNodes
from dstrain.cluster.sweep import Member, members_of
from dstrain.config.certificate import why_not_proven
from dstrain.config.environment import take_environment
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe, load_saved_recipe, recipe_to_dict
from dstrain.config.os_errors import in_words
from dstrain.config.schema import Recipe
from dstrain.runtime.checkpoint.folder import committed, step_of
from dstrain.train.continuity import changes_since

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK_PATIENCE_S = 3.0


def submit_command(given: Namespace) -> int:
    request = request_of(given, os.environ)
    members = members_of(request.sweep, given.overrides, lambda overrides: load_recipe(given.recipe, overrides))
    take_environment(members[0].recipe.environment, os.environ)  # as the training itself does
    fit = fitted(request, slurm.nodes())
    said = checked(members, fit, given.shared, os.environ, given.require_doctor)
    files = _files(members, given)
    script = batch_script(fit.request, files, job_name=_base_name(members, given), command=["dstrain", *sys.argv[1:]],
                          environment=os.environ, written_at=time.strftime("%Y-%m-%d %H:%M:%S %z"))
    print("\n".join(said), file=sys.stderr, flush=True)
    if given.dry_run:
        print(f"script     {files.script} (not written: --dry-run)", file=sys.stderr, flush=True)
        print(script, end="")
        return 0
    _write(files, members, script)
    job = _hand_in(fit.request, files)
    print("\n".join(_how_to_follow(job, fit.request, files)))
    return 0


def checked(members: list[Member], fit: Fit, said_to_be_shared: bool, environment: Mapping[str, str],
            require_doctor: bool = False) -> list[str]:
    """What was found, a line a thing; a UserError for the first that would not work."""
    request, notes = fit.request, list(fit.notes)
    names = None if fit.nodes is None else [node.name for node in fit.nodes]
    seen = SeenByNodes(names, said_to_be_shared)
    lines = []
    code = seen.check("this repository", REPOSITORY, "clone it to a file system that all nodes share")
    _check_repository(environment)
    for member in members:
        recipe, folder = member.recipe, _run_folder(member)
        words, of_shape = shapes_in_words(recipe, request)
        notes += of_shape
        lines.append(f"run        {folder}{': ' + member.override if member.override else ''}, "
                     f"{seen.check('run folder', folder, 'choose another with run.dir=...')}")
        _check_is_free(folder)
        if require_doctor:
            _check_is_proven(folder, member)
        notes += _check_goes_on(folder, recipe, alone=len(members) == 1)
        times = check_times(request, folder)
        needs = needs_of(recipe, bool(committed(folder / "checkpoints")), environment, _libraries())
        notes += [*needs.notes, *_unseen_caches(needs, seen)]
    lines += [f"code       {REPOSITORY}, {code}", f"ranks      {words}", f"partition  {fit.words}",
              f"time       {times}"]
    return lines + [f"note       {note}" for note in dict.fromkeys([*notes, *seen.notes])]


def _check_repository(environment: Mapping[str, str]) -> None:
    if not (REPOSITORY / "slurm" / "job.sh").is_file():
        raise UserError(f"{REPOSITORY} has no slurm/job.sh, which a job starts with: use a clone of the repository "
                        f"(bash launch/setup.sh there), not the installed package alone")
    if not environment.get("DSTRAIN_CONTAINER") and not (REPOSITORY / ".venv" / "bin" / "deepspeed").exists():
        raise UserError(f"{REPOSITORY / '.venv' / 'bin' / 'deepspeed'} is not there, and a job starts with it: run "
                        f"bash launch/setup.sh, or name a container in DSTRAIN_CONTAINER")


def _check_is_free(folder: Path) -> None:
    """Of two trainings in a folder one would be turned away, after it has waited in the queue."""
    if is_held(folder):
        raise UserError(f"{folder} is being trained by {holder_of(folder) or 'another process'}: wait for it, stop it, "
                        f"or choose another run.name")
    noted = noted_jobs(folder)
    found = slurm.jobs(noted) or {}
    for job in (job for number in noted for job in slurm.of_number(number, found)):
        if not job.is_over:
            raise UserError(f"{folder}: job {job.number} is {job.state.lower()} for it already; wait for it, end it "
                            f"with scancel {job.number}, or choose another run.name (--chain makes jobs that take "
                            f"turns)")


def _check_is_proven(folder: Path, member: Member) -> None:
    why = why_not_proven(folder, member.recipe)
    if why is not None:
        more = f" {member.override} run.name={member.recipe.run.name}" if member.override else ""
        raise UserError(f"--require-doctor: {folder}: {why}; run `dstrain doctor` with the same recipe and "
                        f"changes{more}, or leave --require-doctor out")


def _check_goes_on(folder: Path, recipe: Recipe, alone: bool) -> list[str]:
    """What the training would refuse when it starts: another run's checkpoint, nothing left to train."""
    there = committed(folder / "checkpoints")
    if not there:
        return []
    changes_since(load_saved_recipe(there[-1] / "recipe.yaml"), recipe, str(there[-1]))
    if step_of(there[-1]) < recipe.run.steps:
        return []
    finished = (f"{folder} stands at step {step_of(there[-1])} of {recipe.run.steps}: finished already; more steps "
                f"with run.steps=..., or a new run with run.name=...")
    if alone:
        raise UserError(finished)
    return [finished]


def _unseen_caches(needs: Needs, seen: SeenByNodes) -> list[str]:
    """Notes on caches that the nodes do not see but can do without; what they cannot is a UserError."""
    notes = []
    for needed in needs.places:
        try:
            seen.check(needed.what, needed.path, needed.remedy)
        except UserError:
            if not needed.is_cache or not needs.may_fetch():
                raise
            notes.append(f"{needed.what} is in {needed.path}, which the nodes do not see: the job fetches it again, "
                         f"for which they need a way out; without one, {needed.remedy}")
    return notes


def _run_folder(member: Member) -> Path:
    return Path(os.path.abspath(os.path.expanduser(member.recipe.run.dir))) / member.recipe.run.name


def _files(members: list[Member], given: Namespace) -> Files:
    folders = tuple(map(_run_folder, members))
    base = folders[0].parent / _base_name(members, given)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 0
    while (script := base / "slurm" / f"submit_{stamp}{f'_{number}' if number else ''}.sbatch").exists():
        number += 1
    recipes = tuple(folder / "slurm" / f"{script.stem.replace('submit', 'recipe')}.yaml" for folder in folders)
    return Files(REPOSITORY, Path.cwd(), script, recipes, folders)


def _base_name(members: list[Member], given: Namespace) -> str:
    return members[0].recipe.run.name if given.sweep is None else load_recipe(given.recipe, given.overrides).run.name


def _write(files: Files, members: list[Member], script: str) -> None:
    with in_words("write the job's script into", files.folder, "run.dir=..."):
        for path, member in zip(files.recipes, members, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(recipe_to_dict(member.recipe), sort_keys=False, default_flow_style=None,
                                           width=120))
        files.folder.mkdir(parents=True, exist_ok=True)
        files.script.write_text(script)


def _hand_in(request: Request, files: Files) -> str:
    job = slurm.submit(str(files.script), slurm.environment_for_sbatch(os.environ))
    for member, folder in enumerate(files.run_folders):
        with in_words("note the job in", folder):
            note_job(folder, job if request.sweep is None else f"{job}_{member}", script=files.script.name,
                     at=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    return job


def _how_to_follow(job: str, request: Request, files: Files) -> list[str]:
    logs = [path.parent / NEWEST_LOG for path in files.recipes]
    more = f"   # and of the other {len(logs) - 1} runs" if len(logs) > 1 else ""
    runs = list(map(_near, files.run_folders))
    several = (f", an array of {len(logs)} runs" if len(logs) > 1 else
               f", {request.chain} jobs one after the other" if request.chain > 1 else "")
    return [f"submitted  job {job}{several}",
            f"script     {files.script}",
            f"log        tail -F {_near(logs[0])}{more}",
            f"status     dstrain status {' '.join(runs[:3]) if len(runs) <= 3 else runs[0].rpartition('=')[0] + '=*'}",
            f"queue      squeue -j {job}",
            f"end it     scancel {job}"]


def _near(path: Path) -> str:
    """As a user in this folder would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _libraries() -> Libraries:
    """Imported when they are asked for: most recipes need none of them."""
    def hub_cache(name: str, revision: str | None, place: str) -> Path | None:
        from dstrain.data.reading.hub import cached_folder
        try:
            return Path(cached_folder(name, revision, place))
        except UserError:  # its words are for a job that is offline already
            return None

    def missing_of_tiktoken(name: str) -> dict[str, Path]:
        from dstrain.data.tokenizers.tiktoken_files import missing_files
        return missing_files(name)

    def cache_of_tiktoken() -> Path:
        from dstrain.data.tokenizers.tiktoken_files import cache_folder
        return cache_folder()

    return Libraries(hub_cache, missing_of_tiktoken, cache_of_tiktoken, _reaches_the_network)


def _reaches_the_network() -> bool:
    """The hub, or the proxy that leads to it."""
    address = urllib.request.getproxies().get("https") or os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    parts = urllib.parse.urlsplit(address if "//" in address else f"//{address}")
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=NETWORK_PATIENCE_S).close()
    except (OSError, ValueError):
        return False
    return True

"""Slurm, asked and told through its programs: what partitions there are, how jobs stand, a script handed in.

Where a program is not there, or gives no answer in time, the answer is None: this machine has no Slurm to ask.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dstrain.cluster.slurm_time import seconds_of
from dstrain.config.errors import Trouble, UserError

PATIENCE_S = 10.0
ENDED_LONG_AGO_S = 30 * 86400
_NOT_THE_USERS = ("unable to contact", "socket timed out", "connection refused", "communication", "slurm_load",
                  "temporarily unable", "munge")


@dataclass(frozen=True)
class Node:
    """One node as a member of one partition: a node of several comes several times."""

    name: str
    partition: str
    is_default: bool
    is_up: bool
    """the partition takes jobs"""
    time_limit_s: int | None
    """None: no limit"""
    most_nodes: int | None
    """of one job; None: no limit"""
    gpus: int
    cpus: int
    memory_mib: int
    state: str
    """idle, alloc, mix, down, drain ... with signs such as * behind it, as sinfo shows it"""

    @property
    def is_there(self) -> bool:
        """Not down, drained or failing."""
        return not re.match(r"(down|drain|fail|err|unk|future|inval|maint)", self.state)


@dataclass(frozen=True)
class Job:
    """How a job stands: PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, NODE_FAIL, CANCELLED ..."""

    number: str
    """as users write it: 4711, of an array 4711_2"""
    state: str
    reason: str = ""
    """why it waits"""
    where: str = ""
    left_s: int | None = None
    """until its time limit"""
    used_s: int | None = None
    """since it was started, the last time"""

    @property
    def is_queued(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")

    @property
    def is_over(self) -> bool:
        return not self.is_queued and self.state not in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING",
                                                          "SIGNALING", "STAGE_OUT", "PREEMPTED")


def nodes() -> list[Node] | None:
    """Every node of every partition that this user sees."""
    answer = _ask("sinfo", "--noheader", "--Node", "--format=%N|%P|%a|%l|%s|%G|%c|%m|%t")
    if answer is None:
        return None
    found = []
    for line in answer.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 9 and fields[6].isdigit():
            name, partition, up, limit, size, gres, cpus, memory, state = fields
            most = size.rpartition("-")[2]
            found.append(Node(name, partition.rstrip("*"), partition.endswith("*"), up == "up", seconds_of(limit),
                              int(most) if most.isdigit() else None, _gpus_of(gres), int(cpus),
                              int(re.match(r"\d*", memory).group() or 0), state))
    return found


def jobs(numbers: Iterable[str]) -> dict[str, Job] | None:
    """By number, and by the raw number that a member of an array has besides; those that Slurm has forgotten are not
    there. Who is not in the queue any more is asked of the accounting, where there is one."""
    asked = sorted(set(numbers))
    if not asked:
        return {}
    queue = _ask("squeue", "--noheader", "--array", "--states=all", "--jobs=" + ",".join(asked),
                 "--format=%i|%A|%T|%r|%N|%L|%M", also_when_it_fails=True)
    if queue is None:
        return None
    found: dict[str, Job] = {}
    for line in queue.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 7:
            number, raw, state, reason, where, left, used = fields
            job = Job(number, state, "" if reason == "None" else reason, where, _clock_of(left), _clock_of(used))
            found |= {number: job, raw: job}
    gone = [number for number in asked if not of_number(number, found)]
    if gone and (account := _ask("sacct", "--noheader", "--allocations", "--parsable2", "--jobs=" + ",".join(gone),
                                 "--format=JobID,JobIDRaw,State,NodeList")):
        for line in account.splitlines():
            fields = line.strip().split("|")
            if len(fields) == 4:
                number, raw, state, where = fields
                if not re.fullmatch(r"\d+(_\d+)?", number):  # members of an array that never started, as one
                    continue
                job = Job(number, state.split(" ")[0], where="" if where == "None assigned" else where)
                found |= {key: job for key in (number, raw) if key not in found}
    return found


def of_number(number: str, found: Mapping[str, Job]) -> list[Job]:
    """The job, or all the jobs of an array, in their order."""
    if number in found and found[number].number == number:
        return [found[number]]
    members = {job.number: job for job in found.values() if job.number.startswith(f"{number}_")}
    if members:
        return sorted(members.values(), key=lambda job: int(job.number.partition("_")[2]))
    return [found[number]] if number in found else []


def submit(script: str, environment: Mapping[str, str]) -> str:
    """The job's number."""
    try:
        done = subprocess.run(["sbatch", "--parsable", script], capture_output=True, text=True, env=dict(environment),
                              timeout=6 * PATIENCE_S, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise UserError("there is no sbatch on this machine: submit from a login node of the cluster, or look at the "
                        "script with --dry-run") from None
    except subprocess.TimeoutExpired:
        raise Trouble(f"sbatch gave no answer within {6 * PATIENCE_S:.0f} s; see with squeue --me whether the job is "
                      f"there before submitting again") from None
    number = done.stdout.strip().splitlines()[-1].split(";")[0] if done.stdout.strip() else ""
    if done.returncode == 0 and re.fullmatch(r"\d+", number):
        return number
    said = " ".join((done.stderr.strip() or done.stdout.strip()).split()) or f"exit code {done.returncode}"
    kind = Trouble if any(sign in said.lower() for sign in _NOT_THE_USERS) else UserError
    raise kind(f"sbatch refused {script}: {said}")


def environment_for_sbatch(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would speak against the script, where everything is decided: sbatch's own variables win over
    directives, and those of a job or of a launcher that we are in ourselves are not the new job's; that this machine
    has no GPU says nothing of the nodes."""
    kept_of_sbatch = ("SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_CONSTRAINT", "SBATCH_CLUSTERS", "SBATCH_WCKEY")
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CROSS_RANK",
             "CROSS_SIZE", "LOCAL_SIZE", "RANKS_PER_NODE")

    def is_kept(name: str, value: str) -> bool:
        if name.startswith("SBATCH_"):
            return name in kept_of_sbatch
        if name.startswith("SLURM_"):
            return name in ("SLURM_CONF", "SLURM_CLUSTERS")
        return name not in ranks and (name, value) != ("DS_ACCELERATOR", "cpu")

    return {name: value for name, value in environment.items() if is_kept(name, value)}


def _ask(program: str, *arguments: str, also_when_it_fails: bool = False) -> str | None:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=PATIENCE_S,
                              stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout
    if also_when_it_fails and "invalid job id" in done.stderr.lower():  # all of them are forgotten
        return ""
    return None


def _clock_of(text: str) -> int | None:
    """What squeue counts: there 5:00 and 0:07 are minutes and seconds, as in seconds_of."""
    return seconds_of(text) if ":" in text else None


def _gpus_of(gres: str) -> int:
    """gpu:a100:4(S:0-1),nvme:1 are 4 GPUs."""
    counts = re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", gres)
    return sum(map(int, counts))

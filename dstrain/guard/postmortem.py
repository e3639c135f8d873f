"""Why a run ended: one sentence, from the black box, and another one about what is left and what to do.

The origin is told, not its consequences: a rank that only lost another is never the reason when that other one has one.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dstrain.guard import machine
from dstrain.guard.blackbox import Alarm, Record, read_alarm, read_records
from dstrain.guard.causes import CONSEQUENCES
from dstrain.guard.verdict import place

LITTLE_GIB = 0.3
"""less memory than this in a rank's last record makes its death without a word a death for want of memory"""
BEATS_WITHIN_S = 12.0
"""an observer writes at least so often"""
REMEDIES = {
    "out of memory": "use less memory: a smaller batch.micro_rows (it changes no number), "
                     "model.checkpoint_activations=true, a higher ZeRO stage, or offload",
    "disk full": "make room, or choose another place with run.dir=...",
    "disk trouble": "see to the disk, or choose another place with run.dir=...",
    "data error": "mend the data it names",
    "NaN": "look at train/loss before; a smaller optim.lr or a longer schedule.warmup_steps helps most often",
    "stuck": "the stacks of the ranks stand in blackbox/rank_*.stack; look at that host and its network",
    "stopped": "see who stopped that process",
    "node lost": "leave that node out until somebody has looked at it",
    "mistake": "mend what it names",
    "killed": "see who killed it (a memory limit, a batch system's time limit, a person)",
}


@dataclass(frozen=True)
class Ending:
    """Of one attempt at a run."""

    cause: str
    """finished, left, interrupted, out of memory, disk full, disk trouble, data error, NaN, mistake, error, killed,
    stuck, stopped, node lost, all lost, running"""
    step: int
    started: float
    ended: float
    sentence: str


def find_ending(run_folder: Path, beats: Callable[[Record], bool] | None = None) -> Ending | None:
    """Of the newest attempt; None where no black box was kept. `beats`: whether a silent rank's record still moves."""
    records = _all_records(run_folder)
    if not records:
        return None
    newest = max(records, key=lambda record: record.started).attempt
    records = [record for record in records if record.attempt == newest]
    cause, sentence = _why(records, read_alarm(run_folder), beats or _beats_at(run_folder))
    return Ending(cause, max(record.step for record in records), min(record.started for record in records),
                  max(_ended_at(record) for record in records), sentence)


def _all_records(run_folder: Path) -> list[Record]:
    """One may be in the middle of being written: then a moment later it is there."""
    for _ in range(20):
        records = read_records(run_folder)
        if not records or len(records) >= records[0].world:
            break
        time.sleep(0.1)
    return records


def note_ending(run_folder: Path) -> None:
    """Before the black box is emptied for a new attempt: its verdict becomes a line of endings.jsonl."""
    ending = find_ending(run_folder, beats=lambda record: False)  # the folder's lock says that nobody trains here
    if ending is not None:
        with open(run_folder / "endings.jsonl", "a") as file:
            file.write(json.dumps(asdict(ending)) + "\n")


def remedy(cause: str) -> str | None:
    return REMEDIES.get(cause)


def _why(records: list[Record], alarm: Alarm | None, beats: Callable[[Record], bool]) -> tuple[str, str]:
    ended = [record for record in records if record.ending]
    own = [record for record in ended if record.ending["cause"] not in (*CONSEQUENCES, "finished", "left")]
    silent = [record for record in records if not record.ending and not record.gone]
    gone = [record for record in records if record.gone and not record.ending]
    if alarm is not None and alarm.attempt == records[0].attempt:
        cause = {"lost": "node lost"}.get(alarm.kind, alarm.kind)
        return cause, f"it was ended because {alarm.words}"
    if own:
        first = min(own, key=lambda record: record.ending["at"])
        return first.ending["cause"], f"{_said(first.ending['cause'])}, {_on(first)}: {first.ending['words']}"
    if silent and any(map(beats, silent)):
        furthest = max(silent, key=lambda record: record.step)
        return "running", f"it is still running: {_on(furthest)}"
    if gone:
        return _gone(gone, records)
    if silent:
        return _silent(silent, records)
    left = [record for record in ended if record.ending["cause"] == "left"]
    if left:
        return "left", f"it was asked to leave (preempted), and did: {left[0].ending['words']}"
    if all(record.ending["cause"] == "finished" for record in ended):
        return "finished", f"it finished: {records[0].step} steps"
    first = min(ended, key=lambda record: record.ending["at"])
    return "error", (f"{_said(first.ending['cause'])}, {_on(first)}: {first.ending['words']}; the rank that it means "
                     "left no record")


def _gone(gone: list[Record], records: list[Record]) -> tuple[str, str]:
    """Ended without a word, seen by their observers."""
    first = min(gone, key=lambda record: record.gone["at"])
    others = f" (and {len(gone) - 1} more)" if gone[1:] else ""
    starved = next((record for record in gone if record.oom_kills), None)
    if starved is not None:
        return "out of memory", ("it ran out of memory: the kernel killed a process in the container of "
                                 f"{_who(starved)}, {place(starved)}, at {starved.resident_gib:.1f} GiB")
    tight = next((record for record in gone if record.memory_left_gib is not None
                  and record.memory_left_gib < LITTLE_GIB), None)
    if tight is not None:
        return "out of memory", (f"it most likely ran out of memory: {_who(tight)} ended without a word, "
                                 f"{place(tight)}, with {tight.memory_left_gib:.2f} GiB of memory left on its host")
    if len(gone) == len(records) > 1:
        return "killed", (f"all {len(records)} ranks were killed from outside (as by SIGKILL), the first one "
                          f"{_who(first)}, {place(first)}; {first.memory_left_gib or 0:.1f} GiB of memory were left")
    return "killed", (f"{_who(first)}{others} was killed from outside (as by SIGKILL), {place(first)}; "
                      f"{first.memory_left_gib or 0:.1f} GiB of memory were left there")


def _silent(silent: list[Record], records: list[Record]) -> tuple[str, str]:
    """Neither the ranks nor their observers said anything more."""
    here = machine.boot_id()
    restarted = [record for record in silent if record.host == socket.gethostname() and record.boot_id != here]
    if restarted:
        return "node lost", (f"{restarted[0].host} was started again since: it went down with {_who(restarted[0])}, "
                             f"{place(restarted[0])}")
    hosts = sorted({record.host for record in silent})
    if len(silent) < len(records) and hosts != sorted({record.host for record in records}):
        return "node lost", (f"{', '.join(hosts)} was lost, with {len(silent)} rank(s) and their observers at once: "
                             f"last seen {place(silent[0])}")
    return "all lost", (f"{len(silent)} of {len(records)} rank(s) on {', '.join(hosts)} ended together with their "
                        f"observers, without a word, {place(silent[0])}: most likely the whole job was killed, or the "
                        "machine went down")


def _said(cause: str) -> str:
    return {"interrupted": "it was stopped by Ctrl-C", "NaN": "it gave up, for its gradients were NaN or Inf",
            "data error": "its data could not be read", "mistake": "it could not go on",
            "disk full": "the disk was full", "disk trouble": "the disk failed",
            "out of memory": "it ran out of memory", "error": "an error ended it",
            "lost a rank": "it lost a rank", "elsewhere": "another rank had ended it"}.get(cause, cause)


def _who(record: Record) -> str:
    return f"rank {record.rank} on {record.host} (process {record.pid})"


def _on(record: Record) -> str:
    ending = record.ending
    where = place(record) if ending is None else _place_of(ending)
    return f"rank {record.rank} on {record.host}, {where}"


def _place_of(ending: dict) -> str:
    return place(Record(step=ending["step"], phase=ending["phase"]))


def _ended_at(record: Record) -> float:
    return (record.ending or record.gone or {}).get("at", record.at)


def _beats_at(run_folder: Path) -> Callable[[Record], bool]:
    """On this host a process that is gone needs no waiting; elsewhere the record must have moved after a while."""
    def beats(record: Record) -> bool:
        if record.host == socket.gethostname() and record.boot_id == machine.boot_id():
            return machine.process_state(record.pid) not in ("", "Z")
        deadline = time.monotonic() + BEATS_WITHIN_S
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = next((other for other in read_records(run_folder) if other.rank == record.rank), None)
            if now is not None and now.beat != record.beat:
                return True
        return False

    return beats

"""Why an attempt at a run ended, read from its black box; whether it still runs; how the attempts before it ended."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dstrain.guard import machine
from dstrain.guard.blackbox import Record, read_alarm, read_records
from dstrain.guard.evidence import asked_of, crash_of, kernel_log, killed_for_memory
from dstrain.guard.origin import Evidence, find_origin
from dstrain.guard.verdict import place

MOVES_WITHIN_S = 12.0
"""so often an observer writes at least, on a loaded machine or a network disk too"""
GONE_WITHIN_S = 3.0
"""the same where the process is not to be seen on this machine; it may be in another container of it"""
QUIET_S = 10.0


@dataclass(frozen=True)
class Ending:
    """Of one attempt at a run."""

    started: float
    ended: float
    """wall clocks"""
    step: int
    """optimizer steps done"""
    cause: str
    """one of cause_of's, or killed, killed while leaving, crashed, stopped, node lost, all lost, running"""
    sentence: str


Alive = Callable[[Path, list[Record]], tuple[list[Record], set[int]]]
"""the newest records, and the ranks that are alive"""


def find_ending(run_folder: Path, alive: Alive | None = None) -> Ending | None:
    """Of the newest attempt; None where no black box was kept."""
    records = _newest_attempt(run_folder)
    if not records:
        return None
    records, living = (alive or look_again)(run_folder, records)
    cause, sentence = _why(run_folder, records, living)
    return Ending(min(record.started for record in records), max(map(_last_sign_at, records)),
                  max(record.step for record in records), cause, sentence)


def note_ending(run_folder: Path) -> None:
    """Before the black box is emptied for a new attempt: its verdict becomes a line of endings.jsonl."""
    ending = find_ending(run_folder, alive=lambda _, records: (records, set()))  # the folder's lock says so
    if ending is None:
        return
    with open(run_folder / "endings.jsonl", "ab+") as file:
        line = json.dumps(asdict(ending)).encode() + b"\n"
        if file.tell():
            file.seek(-1, 2)
            if file.read() != b"\n":  # torn by a kill or a full disk
                line = b"\n" + line
        file.write(line)


def earlier_endings(run_folder: Path) -> list[Ending]:
    """Of the attempts before the newest, oldest first; lines that are none are left out."""
    endings, kinds = [], {"cause": str, "sentence": str, "step": int}
    try:
        lines = (run_folder / "endings.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            found = json.loads(line)
            endings.append(Ending(**{field.name: kinds.get(field.name, float)(found[field.name])
                                     for field in fields(Ending)}))
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    return endings


def look_again(run_folder: Path, records: list[Record]) -> tuple[list[Record], set[int]]:
    """Until every rank that has not ended has been seen alive, or that cannot be expected any more."""
    began, before = time.monotonic(), {record.rank: record.beat for record in records}
    while True:
        open_ends = [record for record in records if not record.ending and not record.gone]
        moving = {record.rank for record in open_ends if record.beat != before.get(record.rank)}
        still = [record for record in open_ends if record.rank not in moving]
        waits_s = GONE_WITHIN_S if all(map(_is_gone_here, still)) else MOVES_WITHIN_S
        if not still or time.monotonic() - began > waits_s:
            return records, moving | {record.rank for record in still if _is_this_process(record)}
        time.sleep(0.2)
        records = _newest_attempt(run_folder) or records


def _newest_attempt(run_folder: Path) -> list[Record]:
    """The records that can be read. One may be in the middle of being written: then a moment later it is there."""
    records: list[Record] = []
    for _ in range(10):
        records = [record for record in read_records(run_folder) if _is_sound(record)]
        if not records or len(records) >= records[0].world:
            break
        time.sleep(0.1)
    newest = max(records, key=lambda record: record.started).attempt if records else ""
    return [record for record in records if record.attempt == newest]


def _is_sound(record: Record) -> bool:
    """What a broken disk or another version left there must not keep anybody from training on."""
    numbers, words = [record.started, record.at, record.phase_for_s, record.slowest_step_s, record.oom_kills], []
    try:
        for said in (record.ending, record.gone):
            if said is not None:
                numbers.append(said["at"])
                words.append(said["words"])
        if record.ending is not None:
            place(Record(step=record.ending["step"], phase=record.ending["phase"]))
            words.append(record.ending["cause"])
        place(record)
    except (KeyError, TypeError):
        return False
    return all(isinstance(number, (int, float)) for number in numbers) and all(isinstance(word, str) for word in words)


def _why(run_folder: Path, records: list[Record], living: set[int]) -> tuple[str, str]:
    alive = [record for record in records if record.rank in living]
    if alive and not any(record.gone or record.ending for record in records):
        return "running", _running(alive, records)
    alarm, log = read_alarm(run_folder), kernel_log(records)
    if alarm is not None and alarm.attempt != records[0].attempt:
        alarm = None
    cause, sentence = find_origin(records, alarm, Evidence(lambda record: crash_of(run_folder, record),
                                                           lambda record: killed_for_memory(record, log),
                                                           lambda record: asked_of(run_folder, record)))
    if alive:
        other = alive[0]
        sentence += f"; rank {other.rank} on {other.host} (process {other.pid}) is still there, {place(other)}"
    return cause, sentence


def _running(alive: list[Record], records: list[Record]) -> str:
    furthest, slowest = max(alive, key=lambda record: record.step), max(alive, key=lambda record: record.phase_for_s)
    sentence = f"it is still running, {place(furthest)}"
    if slowest.phase_for_s > QUIET_S + 2 * slowest.slowest_step_s or slowest.process_state in ("T", "t"):
        state = {"T": ", it is stopped (as by SIGSTOP)", "t": ", a debugger holds it"}.get(slowest.process_state, "")
        sentence += (f"; rank {slowest.rank} on {slowest.host} (process {slowest.pid}) has given no sign for "
                     f"{slowest.phase_for_s:.0f} s{state}")
    quiet = [record for record in records if record not in alive]
    if quiet:
        sentence += f"; rank {quiet[0].rank} on {quiet[0].host} and its observer give no sign any more"
    return sentence


def _last_sign_at(record: Record) -> float:
    return (record.ending or record.gone or {}).get("at", record.at)


def _is_gone_here(record: Record) -> bool:
    return _is_here(record) and machine.process_state(record.pid) in ("", "Z", "X")


def _is_this_process(record: Record) -> bool:
    """Alive with nobody to write it down; a process that is younger has only got its number."""
    if not _is_here(record) or _is_gone_here(record):
        return False
    born_s = machine.age_s(record.pid)
    return born_s is not None and time.time() - born_s <= record.started + 1.0


def _is_here(record: Record) -> bool:
    return record.host == socket.gethostname() and record.boot_id == machine.boot_id()

"""The black box of a run: runs/NAME/blackbox/, where every rank's observer writes down how its rank is.

`rank_00000.json` is one JSON object, padded with blanks to a size that is allocated at the start, so that it can be
rewritten in place on a full disk too. `alarm.json` is the verdict on a run that is stuck, created once, by whoever
finds it first. `rank_00000.stack` has the stacks of a rank's threads at that moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from dstrain.config.os_errors import in_words

SIZE = 4096
"""bytes of a record: one page, which a reader gets whole or nearly always so"""
NEVER_S = 1e9
PHASES = ("start", "data", "step", "validation", "saving", "leaving")


@dataclass
class Record:
    """A rank as its observer sees it."""

    rank: int = 0
    world: int = 1
    host: str = ""
    pid: int = 0
    boot_id: str = ""
    """of the host: another one says that it was started again since"""
    attempt: str = ""
    """which start of the run this is: the same on all ranks"""
    started: float = 0.0
    """wall clock"""
    at: float = 0.0
    """wall clock of this record; clocks of hosts differ and go backwards, so nothing is decided by it"""
    beat: int = 0
    """rises with every record; one that stands still for long says that the observer is gone"""
    step: int = 0
    """optimizer steps done"""
    phase: str = "start"
    """one of PHASES"""
    detail: str = ""
    phase_for_s: float = 0.0
    """since the rank's last sign of life, in the observer's own ticks: a suspended machine adds nothing"""
    signs: int = 0
    """signs of life since the last step: of two ranks at the same step the one with fewer is behind"""
    waits_in: str = ""
    """the collective that it is in, as far as that is known: it waits for others there"""
    named_after_s: float = NEVER_S
    ended_after_s: float = NEVER_S
    """how long the rank may go without a sign before it is named, and before it is ended"""
    slowest_step_s: float = 0.0
    process_state: str = ""
    """from /proc: R running, S sleeping, D waiting for a disk, T stopped, t under a debugger, Z dead"""
    resident_gib: float = 0.0
    memory_left_gib: float | None = None
    """until the machine's or the container's memory is full"""
    oom_kills: int = 0
    """processes that the kernel killed in this container for want of memory since the start"""
    stack: bool = False
    """the stacks have been written"""
    ending: dict | None = None
    """{cause, words, step, phase, at}: why it ended, in the rank's own words"""
    gone: dict | None = None
    """{words, at}: it ended without a word, as its observer saw it"""


@dataclass
class Alarm:
    """The verdict that ends a run."""

    kind: str
    """stuck, stopped (its process, by SIGSTOP) or lost (its node or its observer gives no sign)"""
    rank: int | None
    """None: all ranks are stuck in the same place, and nobody is behind"""
    host: str
    pid: int
    step: int
    phase: str
    detail: str
    for_s: float
    words: str
    """for people, one line"""
    attempt: str = ""
    at: float = field(default_factory=time.time)
    """wall clock"""


def record_path(run_folder: Path, rank: int) -> Path:
    return run_folder / "blackbox" / f"rank_{rank:05d}.json"


def stack_path(run_folder: Path, rank: int) -> Path:
    return run_folder / "blackbox" / f"rank_{rank:05d}.stack"


def alarm_path(run_folder: Path) -> Path:
    return run_folder / "blackbox" / "alarm.json"


def request_path(run_folder: Path, rank: int) -> Path:
    return run_folder / "blackbox" / f"rank_{rank:05d}.asked"


def note_request(run_folder: Path, rank: int, reason: str) -> None:
    """That it was asked to leave: where it is killed before it is done, this tells that it was no accident."""
    with contextlib.suppress(OSError):  # a broken disk is said by whom it concerns
        request_path(run_folder, rank).write_text(json.dumps({"reason": reason, "at": time.time()}))


def clear(run_folder: Path) -> None:
    """An empty black box for a new attempt."""
    box = run_folder / "blackbox"
    with in_words("empty the black box", box, "run.dir=..."):
        box.mkdir(parents=True, exist_ok=True)
        for path in box.iterdir():
            if not path.name.startswith(".nfs"):  # what somebody still holds open there; it goes by itself
                path.unlink()


def read_record(run_folder: Path, rank: int) -> Record | None:
    """None where there is none, or none that can be read."""
    found = _read(record_path(run_folder, rank))
    return None if found is None else _as(Record, found)


def read_records(run_folder: Path) -> list[Record]:
    """Of all ranks that have one, in rank order."""
    ranks = sorted(int(path.stem.removeprefix("rank_")) for path in run_folder.glob("blackbox/rank_*.json"))
    records = (read_record(run_folder, rank) for rank in ranks)
    return [record for record in records if record is not None]


def read_alarm(run_folder: Path) -> Alarm | None:
    found = _read(alarm_path(run_folder))
    return None if found is None else _as(Alarm, found)


def raise_alarm(run_folder: Path, alarm: Alarm) -> bool:
    """True for the first who raises one. A full or vanished disk is no reason to be silent: then more may say it."""
    try:
        with open(alarm_path(run_folder), "x") as file:
            file.write(json.dumps(asdict(alarm)) + "\n")
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


class RecordFile:
    """A rank's record: allocated once, then rewritten in place."""

    def __init__(self, run_folder: Path, rank: int, number: int | None = None):
        """`number`: of the file that the rank has opened, in its observer."""
        self.path = record_path(run_folder, rank)
        self.number = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666) if number is None else number
        """open as long as this is, so that no other file can be taken for it meanwhile"""
        os.posix_fallocate(self.number, 0, SIZE)

    def write(self, record: Record) -> None:
        """Opened and closed each time, so that readers on other machines see it (NFS)."""
        try:
            file = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:  # the run folder was moved: who looks into it there is to know, too
            os.pwrite(self.number, _padded(record), 0)
            os.fsync(self.number)
            return
        try:
            if not os.path.samestat(os.fstat(file), os.fstat(self.number)):
                raise TakenOver(f"{self.path.parent} is another attempt's by now")
            os.pwrite(file, _padded(record), 0)
        finally:
            os.close(file)

    def read(self) -> Record | None:
        """What was written last, wherever the run folder may be by now."""
        try:
            found = json.loads(os.pread(self.number, SIZE, 0))
        except (ValueError, OSError):
            return None
        return _as(Record, found) if isinstance(found, dict) else None

    def close(self) -> None:
        os.close(self.number)


class TakenOver(Exception):
    """The run was started again meanwhile, and the black box is no longer this attempt's."""


def _padded(record: Record) -> bytes:
    """Exactly SIZE bytes; what is for people is cut short where it does not fit."""
    whole = asdict(record)
    for limit in (1000, 500, 200, 50, 0):
        text = json.dumps(_shortened(whole, limit), ensure_ascii=False).encode("utf-8", "replace")
        if len(text) < SIZE:
            return text.ljust(SIZE - 1) + b"\n"
    raise ValueError(f"a record of {len(text)} bytes")


def _shortened(thing: object, limit: int) -> object:
    if isinstance(thing, str):
        return thing if len(thing) <= limit else thing[:limit] + "..."
    return {key: _shortened(value, limit) for key, value in thing.items()} if isinstance(thing, dict) else thing


def _read(path: Path) -> dict | None:
    """A reader may come in the middle of a write: then it looks again."""
    for _ in range(3):
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            continue
        if isinstance(found, dict):
            return found
    return None


def _as(kind: type, found: dict):
    """What a newer or older dstrain wrote may have other fields."""
    known = {field.name for field in fields(kind)}
    try:
        return kind(**{name: value for name, value in found.items() if name in known})
    except TypeError:
        return None

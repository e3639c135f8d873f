"""Who ended a run first, and by what: its cause and a sentence, from the ranks' last records.

Each rank may have said why it ends, or vanished without a word as its observer saw it, or fallen silent together with
its observer; an alarm may have ended them all. The earliest reason of somebody's own is the origin. That a rank lost
another one, or heard of another's failure, is a consequence and never the reason.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dstrain.guard import machine
from dstrain.guard.blackbox import Alarm, Record
from dstrain.guard.causes import CONSEQUENCES
from dstrain.guard.verdict import place

LITTLE_GIB = 0.3
"""with less memory than this in its last record, a rank that vanished most likely did so for want of memory"""
GRACE_S = 0.25
"""an error of no known kind may be how a lost connection shows, and an observer may note a moment later who is gone"""
TOGETHER_S = 1.0
IN_GOOD_ORDER = ("finished", "left")
BY_OBSERVER = "ended by its observer"
"""how an observer's words begin that ended a rank itself"""
SAID = {
    "NaN": "it gave up, for its gradients were NaN or Inf",
    "data error": "its data could not be read",
    "disk full": "the disk was full",
    "disk trouble": "the disk failed",
    "out of memory": "it ran out of memory",
    "interrupted": "it was stopped by Ctrl-C",
    "mistake": "something in the recipe or the folder kept it from going on",
    "trouble": "something outside the training broke",
    "error": "an error ended it",
    "lost a rank": "the connection between its ranks broke",
    "elsewhere": "another rank ended it",
}


@dataclass(frozen=True)
class Evidence:
    """What tells of a process that said nothing: each gives words, or None."""

    crash_of: Callable[[Record], str | None] = lambda record: None
    killed_for_memory: Callable[[Record], str | None] = lambda record: None
    asked_of: Callable[[Record], tuple[float, str] | None] = lambda record: None
    """when it was asked to leave, and by what"""


def find_origin(records: list[Record], alarm: Alarm | None, evidence: Evidence) -> tuple[str, str]:
    """(cause, sentence) of an attempt of which no rank is alive, or which somebody ended already."""
    cause, sentence = _origin(records, alarm, evidence)
    asked = min((found for record in records if not record.ending and (found := evidence.asked_of(record))),
                default=None)
    if asked is None or cause not in ("killed", "all lost"):
        return cause, sentence
    at, reason = asked
    ends = [record.gone["at"] for record in records if record.gone]
    later = f" {max(0.0, min(ends) - at):.0f} s later," if ends else ""  # who fell silent did so nobody knows when
    return "killed while leaving", (f"it was asked to leave ({reason}), as in a preemption, and was killed{later} "
                                    f"before it was done: {sentence}")


def _origin(records: list[Record], alarm: Alarm | None, evidence: Evidence) -> tuple[str, str]:
    ended = [record for record in records if record.ending]
    silent = [record for record in records if not record.ending and not record.gone]
    vanished = [record for record in records if record.gone and not record.ending
                and not record.gone["words"].startswith(BY_OBSERVER)]
    origins = [(_when_said(record), *_said(record)) for record in ended
               if record.ending["cause"] not in (*CONSEQUENCES, *IN_GOOD_ORDER)]
    if alarm is not None and alarm.kind != "lost":
        origins.append((alarm.at - alarm.for_s, alarm.kind, _alarmed(alarm)))
    good = _in_good_order(ended, vanished)
    if vanished and good is None:
        first = min(vanished, key=lambda record: record.gone["at"])
        origins.append((first.gone["at"], *_vanished(first, vanished, len(records), evidence)))
    if origins:
        _, cause, sentence = min(origins)
        return cause, sentence + _also_silent(silent)
    if good is not None:
        return good
    if silent:
        return _silent(silent, records)
    if alarm is not None:  # of a rank that left no record at all
        return "node lost", _alarmed(alarm)
    return _only_consequences(ended, records)


def _alarmed(alarm: Alarm) -> str:
    where = place(Record(step=alarm.step, phase=alarm.phase, detail=alarm.detail))
    return f"it was ended because {alarm.words}{'' if where in alarm.words else f', {where}'}"


def _when_said(record: Record) -> float:
    return record.ending["at"] + (GRACE_S if record.ending["cause"] == "error" else 0.0)


def _said(record: Record) -> tuple[str, str]:
    cause, words = record.ending["cause"], record.ending["words"]
    if cause == "NaN":  # all ranks' alike; the first sentence of several
        return cause, f"{SAID[cause]}: {words.split('. ')[0]}"
    about = "" if cause == "interrupted" else f": {_at_most(words)}"
    starved = (f"; the kernel had killed {record.oom_kills} process(es) of its container for want of memory"
               if record.oom_kills and cause == "error" else "")
    return cause, f"{SAID.get(cause, cause)}, {_on(record)}{about}{starved}"


def _vanished(first: Record, vanished: list[Record], world: int, evidence: Evidence) -> tuple[str, str]:
    """Ended without a word, as the observers saw it."""
    for record in sorted(vanished, key=lambda record: record.gone["at"]):
        crash, memory = evidence.crash_of(record), evidence.killed_for_memory(record)
        who = f"{_who(record)}, {place(record)}"
        if crash is not None:
            return "crashed", f"{who}, crashed in native code: {crash}"
        if memory is not None:
            return "out of memory", (f"it ran out of memory: the kernel killed {who}"
                                     + (f", which had {memory}" if memory else ""))
        if record.oom_kills:
            return "out of memory", (f"it ran out of memory: {who}, was killed when it had {record.resident_gib:.1f} "
                                     f"GiB, and the kernel says that it killed {record.oom_kills} process(es) of that "
                                     "container for want of memory")
        if record.memory_left_gib is not None and record.memory_left_gib < LITTLE_GIB:
            return "out of memory", (f"it most likely ran out of memory: {who}, ended without a word, with "
                                     f"{record.memory_left_gib:.2f} GiB of memory left there")
    left = "" if first.memory_left_gib is None else f"; {first.memory_left_gib:.1f} GiB of memory were left there"
    last_s = max(record.gone["at"] for record in vanished) - first.gone["at"]
    if len(vanished) == world > 1 and last_s < TOGETHER_S:
        return "killed", (f"all {world} ranks were killed from outside (as by SIGKILL) at once, the first of them "
                          f"{_who(first)}, {place(first)}{left}")
    others = f"; {len(vanished) - 1} more rank(s) ended that way after it" if vanished[1:] else ""
    return "killed", f"{_who(first)} was killed from outside (as by SIGKILL), {place(first)}{left}{others}"


def _in_good_order(ended: list[Record], vanished: list[Record]) -> tuple[str, str] | None:
    """What is finished or saved stays so, whatever then ended ranks that were on their way out."""
    by_cause = {record.ending["cause"]: record for record in reversed(ended)}
    killed = "; only then " + _who(vanished[0]) + " was killed, on its way out" if vanished else ""
    if "finished" in by_cause:
        return "finished", f"it finished, at step {by_cause['finished'].ending['step']}{killed}"
    left = by_cause.get("left")
    if left is None or any(record.gone["at"] < left.ending["at"] for record in vanished):
        return None
    words = left.ending["words"]
    for said_anyway in (", and the same command goes on", "; the same command goes on"):
        words = words.removesuffix(said_anyway)
    why = "its time was nearly over" if "run.max_minutes" in words else "it was asked to leave (preempted)"
    return "left", f"{why}: {words}{killed}"


def _silent(silent: list[Record], records: list[Record]) -> tuple[str, str]:
    """Neither the ranks nor their observers said anything more."""
    first = min(silent, key=lambda record: record.at)
    who = f"{_who(first)}, {place(first)}"
    hosts = sorted({record.host for record in silent})
    heard_of = {record.host for record in records if record not in silent}
    here = [record for record in silent if record.host == socket.gethostname() and record.boot_id != machine.boot_id()]
    if here:
        return "node lost", f"{here[0].host} went down, and was started again since, with {who}"
    more = f" and {len(silent) - 1} more rank(s)" if silent[1:] else ""
    if len(silent) == len(records):
        whose = (f"its rank on {hosts[0]} ended together with its observer" if not records[1:] else
                 f"all {len(records)} ranks on {', '.join(hosts)} ended together with their observers")
        return "all lost", (f"{whose} and without a word, {place(first)}: most likely the whole job was killed (as by "
                            "a batch system), its machine went down, or this folder was out of reach")
    if heard_of.isdisjoint(hosts):
        return "node lost", (f"{' and '.join(hosts)} most likely went down or lost the network: {who},{more} "
                             "gave no sign any more, nor did their observers, while others still did")
    return "killed", (f"{who},{more} ended together with its observer and without a word, while others of its host "
                      "went on: most likely both were killed from outside (as by SIGKILL)")


def _only_consequences(ended: list[Record], records: list[Record]) -> tuple[str, str]:
    first = min(ended, key=lambda record: record.ending["at"], default=records[0])
    missing = sorted(set(range(first.world)) - {record.rank for record in records})
    if missing:
        return "lost a rank", (f"rank {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''} of "
                               f"{first.world} left no record: most likely its machine or its folder failed; the "
                               "others lost it")
    if first.ending is None:  # ended by their observers, whose alarm is gone
        return "stuck", f"{_on(first)}, was {first.gone['words'] if first.gone else 'ended'}"
    cause, sentence = _said(first)
    if cause == "lost a rank":
        hosts = sorted({record.host for record in records})
        return cause, (f"the connection between its ranks broke: {_on(first)}, lost another first, but no rank ended "
                       f"for a reason of its own; most likely the network of {' or '.join(hosts)}")
    return cause, sentence


def _also_silent(silent: list[Record]) -> str:
    return f"; {_who(silent[0])}, left no word of its end" if silent else ""


def _who(record: Record) -> str:
    return f"rank {record.rank} on {record.host} (process {record.pid})"


def _on(record: Record) -> str:
    """Where it was when it said why it ends, or last seen."""
    said = record.ending
    then = record if said is None else replace(record, step=said["step"], phase=said["phase"],
                                               detail=said.get("detail", ""))
    return f"rank {record.rank} on {record.host}, {place(then)}"


def _at_most(words: str, length: int = 300) -> str:
    """Whole sentences, as far as they go: what CUDA says of its memory is a paragraph."""
    if len(words) <= length:
        return words.rstrip(".")
    end = words.rfind(". ", 0, length)
    return words[:end] if end > length // 4 else words[:length].rstrip() + " ..."

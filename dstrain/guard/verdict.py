"""Who holds up a run that does not go on: found from the ranks' records alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dstrain.guard.blackbox import Alarm, Record


WELL = ("finished", "left")
"""causes of endings after which the other ranks may still have something to do"""


@dataclass(frozen=True)
class Verdict:
    kind: str
    """as an alarm's: stuck, stopped or lost"""
    ranks: list[Record]
    """who it is; all, where nobody is behind"""
    nobody_behind: bool
    named: bool
    """it has lasted longer than what may be"""
    ends: bool
    """it has lasted so long that the run has to end"""


def find(own: Record, records: list[Record], lost: Collection[int]) -> Verdict:
    """Of all ranks' records, when `own` has come no further for a while. `lost`: those whose observers are silent.

    A rank that waits in a collective waits for somebody. So it is one that is gone, or one that came less far than the
    others; and of those in the same place, one that is not in a collective.
    """
    is_over = own.phase_for_s >= own.ended_after_s
    vanished = [record for record in records if record.rank in lost or record.gone
                or (record.ending and (is_over or record.ending["cause"] not in WELL))]
    if vanished:
        return Verdict("lost", vanished, False, True, True)
    least = min((record.step, record.signs) for record in records)
    behind = [record for record in records if (record.step, record.signs) == least]
    behind = [record for record in behind if not record.waits_in] or behind
    stopped = [record for record in behind if record.process_state == "T"]
    slow = stopped or behind
    return Verdict("stopped" if stopped else "stuck", slow, len(slow) == len(records) > 1 and not stopped,
                   named=all(record.phase_for_s >= record.named_after_s for record in slow),
                   ends=not stopped and all(record.phase_for_s >= record.ended_after_s for record in slow))


def alarm_of(verdict: Verdict, world: int) -> Alarm:
    """In words for people: host, rank, phase, for how long, state."""
    first = verdict.ranks[0]
    return Alarm(kind=verdict.kind, rank=None if verdict.nobody_behind else first.rank, host=first.host, pid=first.pid,
                 step=first.step, phase=first.phase, detail=first.detail, for_s=round(first.phase_for_s, 1),
                 words=in_words(verdict, world), attempt=first.attempt)


def in_words(verdict: Verdict, world: int) -> str:
    first = verdict.ranks[0]
    since = f"{first.phase_for_s:.0f} s"
    if verdict.nobody_behind:
        where = (f"stuck in a collective ({first.waits_in})" if first.waits_in else "without a sign")
        return f"all {world} ranks have been {where} for {since}, {place(first)}; none is behind the others"
    who = _who(verdict.ranks)
    if verdict.kind == "stopped":
        return f"{who} is stopped (as by SIGSTOP), for {since}, {place(first)}"
    if verdict.kind == "stuck":
        inside = f", in {first.waits_in}" if first.waits_in else ""
        state = {"D": ", waiting for a disk or a network disk", "R": ", computing"}.get(first.process_state, "")
        waited_for = "; the others wait for it" if world > 1 else ""
        return f"{who} has given no sign for {since}, {place(first)}{inside}{state}{waited_for}"
    if first.ending:
        return f"{who} has ended ({first.ending['cause']}), {place(first)}, and the others wait for it in vain"
    if first.gone:
        return f"{who} is gone without a word, {place(first)}, and the others wait for it in vain"
    return f"{who} is lost: neither it nor its observer gives a sign any more; it was last seen {place(first)}"


def place(record: Record) -> str:
    """Where in the run."""
    detail = f" ({record.detail})" if record.detail else ""
    at = {"start": f"in the start-up{f', going on from step {record.step}' if record.step else ''}",
          "data": f"waiting for the rows of step {record.step + 1}",
          "step": f"in step {record.step + 1}", "validation": f"in the validation after step {record.step}",
          "saving": f"saving after step {record.step}", "leaving": f"leaving after step {record.step}"}
    if (record.phase, record.detail) == ("step", "records"):
        return f"writing the records of step {record.step}"
    return at[record.phase] + detail


def _who(records: list[Record]) -> str:
    first = records[0]
    others = f" (and {len(records) - 1} more)" if records[1:] else ""
    return f"rank {first.rank} on {first.host}, process {first.pid}{others},"

"""The observer: a small process beside each rank that writes down how it is, and names and ends a run that is stuck.

It reads the rank's signs of life from shared memory and its state from /proc, so it sees a rank that is stopped, that
holds the interpreter's lock, or that hangs in native code. It lives exactly as long as its rank. Time is counted in its
own looks, each a second at most: what stops both (Ctrl-Z, a suspended machine) is no time that the rank was stuck.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import sys
import time
from pathlib import Path

from dstrain.guard import blackbox, machine
from dstrain.guard.blackbox import Alarm, Record, RecordFile, TakenOver
from dstrain.guard.pulse import PATIENCE_S, Sign, read_sign
from dstrain.guard.verdict import alarm_of, find, in_words

LOOK_S = 0.5
PUBLISH_S = 2.0
WOKEN, HUNG_UP = "woken", "hung up"
LOST_S = {"step": 5.0}
LOST_ELSEWHERE_S = 60.0
"""so long a record's beat may stand still: a full network disk delays the observers of a saving run, too"""
FIRST_TO_LOOK = 4
"""so many ranks look at the others' records from half their allowance on; the rest only when those did nothing"""
STACKS_S = 4.0
"""all ranks' stacks are taken within this, before the first rank is ended"""
STACK_SIGNAL = signal.SIGRTMIN + 9


def main() -> None:
    """The rank's arguments as JSON; its standard input hangs up when the rank ends."""
    what = json.loads(sys.argv[1])
    run_folder, pulse = Path(what["run_folder"]), mmap.mmap(what["pulse"], 0, prot=mmap.PROT_READ)
    observer = Observer(run_folder, RecordFile(run_folder, what["rank"], what["record"]), pulse)
    try:
        observer.watch()
    except TakenOver as other:
        say(f"dstrain: rank {observer.record.rank}: {other}: this one is left over from an earlier one, and is ended")
        observer.end_rank()


class Observer:
    def __init__(self, run_folder: Path, file: RecordFile, pulse: mmap.mmap):
        """`file` holds who the rank is, as itself or an observer before this one wrote it."""
        self.run_folder, self.file, self.pulse, self.memory = run_folder, file, pulse, machine.Memory()
        self.record = file.read()
        self.pid = self.record.pid
        self.hears = True
        self.sign: Sign | None = None
        self.stopped_s = self.unpublished_s = self.unread_s = 0.0
        self.others: dict[int, _Other] = {}
        self.named: int | None = None

    def watch(self) -> None:
        """Look twice a second, until the rank is gone or has to be ended."""
        self.look(0.0)
        self.publish()
        before = time.monotonic()
        while True:
            heard = self.wait()
            now = time.monotonic()
            tick_s, before = min(now - before, 1.0), now
            gone = os.getppid() != self.pid or (heard == HUNG_UP and self.is_about_to_go())
            self.look(tick_s)
            if gone or (heard == HUNG_UP and self.record.ending):
                self.note_gone()
                return
            if (alarm := self.judge(tick_s)) is not None:
                self.end(alarm)
                return
            self.unpublished_s += tick_s
            if heard or self.is_urgent or self.unpublished_s >= PUBLISH_S:
                self.publish()

    def wait(self) -> str:
        """Until the next look, or until the rank says something: a byte when it ends, a hang-up when it has ended."""
        if not self.hears:
            time.sleep(LOOK_S)
            return ""
        ready, _, _ = select.select([0], [], [], LOOK_S)
        if not ready:
            return ""
        self.hears = bool(os.read(0, 64))
        return WOKEN if self.hears else HUNG_UP

    def is_about_to_go(self) -> bool:
        """After a hang-up without a word: a process's files are closed a moment before it is gone."""
        sign = read_sign(self.pulse)
        for _ in range(400 if sign is None or sign.ending is None else 0):
            if os.getppid() != self.pid:
                return True
            time.sleep(0.005)
        return False

    def look(self, tick_s: float) -> None:
        """Bring the record up to date."""
        record, sign = self.record, read_sign(self.pulse) or self.sign
        record.process_state = machine.process_state(self.pid)
        if sign is not None and (self.sign is None or sign.signs_ever != self.sign.signs_ever):
            record.phase_for_s = 0.0
            self.named = None
        elif record.process_state != "t":  # under a debugger it may rest as long as it likes
            record.phase_for_s += tick_s
        self.stopped_s = self.stopped_s + tick_s if record.process_state == "T" else 0.0
        if sign is not None:
            self.sign = sign
            record.step, record.phase, record.detail, record.signs = sign.step, sign.phase, sign.detail, sign.signs
            record.waits_in, record.slowest_step_s, record.ending = sign.waits_in, sign.slowest_step_s, sign.ending
            record.named_after_s, record.ended_after_s = sign.named_after_s, sign.ended_after_s

    @property
    def short_s(self) -> float:
        """Beyond this something is wrong, if a step is any yardstick of what is being done."""
        return 2 * self.record.slowest_step_s + PATIENCE_S

    @property
    def suspicious(self) -> bool:
        return self.record.phase_for_s > self.short_s / 2 or self.stopped_s > 0

    @property
    def is_urgent(self) -> bool:
        """Every moment counts. A save or a start-up may take long; then more looks at the disk would help nobody."""
        return self.suspicious and (self.record.phase in ("step", "data") or self.stopped_s > 0)

    def judge(self, tick_s: float) -> Alarm | None:
        """What ends the run, if anything does: raised by whoever finds it first."""
        if not self.suspicious:
            return None
        alarm = blackbox.read_alarm(self.run_folder)
        if alarm is not None and alarm.attempt == self.record.attempt:
            return alarm
        record, world = self.record, self.record.world
        if self.stopped_s > self.short_s:
            self.publish()
            words = (f"rank {record.rank} on {record.host}, process {record.pid}, is stopped (as by SIGSTOP), for "
                     f"{self.stopped_s:.0f} s")
            return self.raise_alarm(Alarm("stopped", record.rank, record.host, record.pid, record.step, record.phase,
                                          record.detail, round(self.stopped_s, 1), words, record.attempt))
        starts_at_s = self.short_s / 2 if record.rank < FIRST_TO_LOOK else self.short_s + 2.0
        if record.phase_for_s < starts_at_s:
            self.others.clear()
            self.unread_s = 0.0
            return None
        self.look_at_others(tick_s)
        if record.phase_for_s < self.short_s + 0.5 * min(record.rank, FIRST_TO_LOOK):
            return None
        allowed_s = LOST_S.get(record.phase, LOST_ELSEWHERE_S)
        lost = [rank for rank, other in self.others.items() if other.still_s > allowed_s]
        records = sorted([record, *(other.record for other in self.others.values())], key=lambda record: record.rank)
        if len(records) < world:
            return None
        verdict = find(record, records, lost)
        if verdict.ends:
            return self.raise_alarm(alarm_of(verdict, world))
        if verdict.named and verdict.kind == "stuck" and record.rank == 0 and verdict.ranks[0].rank != self.named:
            self.named = verdict.ranks[0].rank
            say(f"dstrain: {in_words(verdict, world)}; the run goes on, and is ended if this lasts "
                f"{verdict.ranks[0].ended_after_s / 60:.0f} minutes")
        return None

    def look_at_others(self, tick_s: float) -> None:
        self.unread_s += tick_s
        if not self.is_urgent and self.unread_s < PUBLISH_S:
            return
        tick_s, self.unread_s = self.unread_s, 0.0
        for rank in range(self.record.world):
            if rank == self.record.rank:
                continue
            other = self.others.setdefault(rank, _Other(Record(rank=rank, host="an unknown host")))
            seen = blackbox.read_record(self.run_folder, rank)
            if seen is None or seen.attempt != self.record.attempt or seen.beat == other.record.beat:
                other.still_s += tick_s
            else:
                other.record, other.still_s = seen, 0.0

    def raise_alarm(self, alarm: Alarm) -> Alarm:
        """One observer says it; where another was faster, its alarm counts."""
        self.publish()  # fails where the folder is another attempt's by now
        if not blackbox.raise_alarm(self.run_folder, alarm):
            return blackbox.read_alarm(self.run_folder) or alarm
        say(f"dstrain: {alarm.words}\ndstrain: this ends the run on all ranks; their stacks are in "
            f"{self.run_folder / 'blackbox'}, and the same command goes on from the last checkpoint, or else from the "
            "start")
        return alarm

    def end(self, alarm: Alarm) -> None:
        """Take the rank's stacks, let the other observers take theirs, end the rank."""
        self.take_stacks()
        self.record.stack = True
        self.publish()
        waited_s = 0.0
        while waited_s < STACKS_S and not self.all_have_stacks(alarm):
            time.sleep(LOOK_S / 2)
            waited_s += LOOK_S / 2
        self.end_rank()
        self.record.gone = {"words": f"ended by its observer: {alarm.words}", "at": time.time()}
        self.publish()

    def end_rank(self) -> None:
        """It is this process's parent as long as it lives, so the number is no other process's."""
        if os.getppid() == self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def take_stacks(self) -> None:
        """The rank has a handler for this that needs no lock of the interpreter; a stopped process runs none."""
        path = blackbox.stack_path(self.run_folder, self.record.rank)
        if self.record.process_state in ("T", "t"):
            path.write_text("stopped: no stack can be taken\n")
            return
        if os.getppid() != self.pid:
            return
        os.kill(self.pid, STACK_SIGNAL)
        size = -1
        for _ in range(20):
            time.sleep(0.1)
            before, size = size, path.stat().st_size if path.exists() else 0
            if 0 < size == before:
                return

    def all_have_stacks(self, alarm: Alarm) -> bool:
        records = blackbox.read_records(self.run_folder)
        return all(record.stack or record.ending or record.gone or (alarm.kind == "lost" and record.rank == alarm.rank)
                   for record in records)

    def note_gone(self) -> None:
        """The last record."""
        os.close(2)  # whoever reads the rank's output must not wait for this
        if self.record.ending is None:
            kills = self.memory.oom_kills()
            words = ("vanished without a word" + (f"; the kernel killed {kills} process(es) here for want of memory"
                                                  if kills else ""))
            self.record.gone = {"words": words, "at": time.time()}
        self.publish()

    def publish(self) -> None:
        record = self.record
        record.beat += 1
        record.at = time.time()
        if resident_gib := machine.resident_gib(self.pid):  # else the last figures before its end stand
            record.resident_gib = round(resident_gib, 3)
            left_gib = self.memory.left_gib()
            record.memory_left_gib = None if left_gib is None else round(left_gib, 3)
        record.oom_kills = self.memory.oom_kills()
        self.unpublished_s = 0.0
        try:
            self.file.write(record)
        except OSError:
            pass  # a folder that is gone or a broken disk: the rank itself will say so


class _Other:
    """Another rank, as seen from here."""

    def __init__(self, record: Record):
        self.record = record
        self.still_s = 0.0


def say(text: str) -> None:
    """On standard error, if its reader reads: nobody may keep the observer from ending a run."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if poll.poll(1000):
        try:
            os.write(2, text.encode() + b"\n")
        except OSError:
            pass  # nobody is there


if __name__ == "__main__":
    main()

"""Real trainings that end in all the ways there are, and what `dstrain postmortem` says of each.

    python tests/faults/ends.py                 # all
    python tests/faults/ends.py killed nan      # some

Every one must be told by its right cause, with rank, host and place where somebody is at fault. What this machine does
not permit is skipped, and says so. Ends with 1 if anything is told wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import harness

from dstrain.__main__ import main
from dstrain.guard.blackbox import read_records, record_path, request_path

KEPT = r"Kept is step_\d+ \(.*dstrain verify\): the same command goes on from it"
NOTHING_KEPT = "No checkpoint was committed yet"
ON = r"ank \d on \S+"
BIG = "model.width=1024", "model.ff=4096", "schedule.warmup_steps=0"
"""some 400 MB in weights, gradients and moments"""
GROUPS = Path("/sys/fs/cgroup/memory")


class NotPermitted(Exception):
    """This machine does not let us bring it about."""


@dataclass
class End:
    """One of them: brought about in a run folder, and what has to be said of it."""

    bring_about: Callable[[Path, str], object]
    says: list[str]
    """regular expressions, all to be found in what postmortem prints"""


def finished(place: Path, name: str) -> None:
    assert _start(place, name, "run.steps=6").wait() == [0, 0]


def finished_before(place: Path, name: str) -> None:
    """A start that finds nothing left to do is told as what it is, and at its step."""
    for _ in range(2):
        finished(place, name)


def started_over(place: Path, name: str) -> None:
    """What was removed with --fresh left no earlier attempts, either."""
    finished_before(place, name)
    assert _start(place, name, "run.steps=6", "--fresh", "--yes").wait() == [0, 0]


def killed(place: Path, name: str) -> None:
    job = _training(place, name)
    job.send(signal.SIGKILL, [1])
    assert job.wait()[1] == -signal.SIGKILL


def killed_alone(place: Path, name: str) -> None:
    job = _training(place, name, world=1)
    job.send(signal.SIGKILL)
    job.wait()


def all_killed(place: Path, name: str) -> None:
    job = _training(place, name)
    job.send(signal.SIGKILL)
    job.wait()


def rank_and_observer_killed(place: Path, name: str) -> None:
    job = _training(place, name)
    _kill_with_observers(job, [1])
    job.wait()


def all_lost(place: Path, name: str) -> None:
    job = _training(place, name)
    _kill_with_observers(job, [0, 1])
    job.wait()


def crashed(place: Path, name: str) -> None:
    job = _training(place, name)
    job.send(signal.SIGSEGV, [1])
    assert job.wait()[1] == -signal.SIGSEGV


def preempted(place: Path, name: str) -> None:
    job = _training(place, name)
    job.send(signal.SIGTERM, [1])
    assert job.wait() == [75, 75]


def preempted_twice(place: Path, name: str) -> None:
    preempted(place, name)
    job = _training(place, name)
    job.send(signal.SIGUSR1)
    assert job.wait() == [75, 75]


def preempted_too_soon(place: Path, name: str) -> None:
    """As a batch system does that leaves no time: the request, then the end of all processes."""
    job = _training(place, name)
    job.send(signal.SIGTERM)
    _wait_for(lambda: request_path(_folder(place, name), 0).is_file(), job)
    _kill_with_observers(job, [0, 1])
    job.wait()


def asked_in_the_start_up(place: Path, name: str) -> None:
    job = _start(place, name)
    _wait_for(lambda: record_path(_folder(place, name), 0).is_file() and read_records(_folder(place, name)), job)
    job.send(signal.SIGTERM)
    assert set(job.wait()) == {75}


def out_of_time(place: Path, name: str) -> None:
    assert _start(place, name, "run.steps=100000", "run.max_minutes=0.2").wait() == [75, 75]


def stopped_by_hand(place: Path, name: str) -> None:
    job = _training(place, name)
    job.send(signal.SIGINT)
    assert set(job.wait()) <= {130, 1}


def gradients_that_are_nan(place: Path, name: str) -> None:
    assert _start(place, name, "optim.lr=1e38", "optim.clip=0", "run.max_skipped=2",
                  "schedule.warmup_steps=0").wait() == [2, 2]


def the_same_again(place: Path, name: str) -> None:
    for _ in range(2):
        gradients_that_are_nan(place, name)


def bad_data(place: Path, name: str) -> None:
    (place / "bad.jsonl").write_text('{"text": "good"}\n' * 20 + "bad\n" * 50)
    assert _start(place, name, "data.train=[{path: bad.jsonl}]").wait() == [2, 2]


def bad_data_later(place: Path, name: str) -> None:
    """One rank comes to it in the middle of the run."""
    lines = ['{"text": "line %d says that %d plus one is %d"}\n' % (n, n, n + 1) for n in range(10_000)]
    (place / "late.jsonl").write_text("".join(lines) + "{bad\n" * 2000)
    assert _start(place, name, "data.train=[{path: late.jsonl}]", "run.steps=3000", "batch.length=512").wait() == [2, 2]


def bad_validation_data_later(place: Path, name: str) -> None:
    lines = '{"text": "one plus one is two, and that is all there is to say"}\n' * 40
    (place / "late_valid.jsonl").write_text(lines + "{bad\n" * 40)
    assert _start(place, name, "data.valid=[{path: late_valid.jsonl}]").wait() == [2, 2]


def mistake_after_the_lock(place: Path, name: str) -> None:
    finished(place, name)
    assert _start(place, name, "run.steps=9", "model.width=64").wait() == [2, 2]


def disk_full(place: Path, name: str) -> None:
    with _small_disk(place / name) as disk:
        job = _training(place, name)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(b"f" * 4096):
                pass
        assert set(job.wait()) == {1}


def folder_vanished(place: Path, name: str) -> None:
    job = _training(place, name)
    _folder(place, name).rename(place / "away")
    assert set(job.wait()) == {1}
    (place / "away").rename(_folder(place, name))


def no_more_address_space(place: Path, name: str) -> None:
    """As under `ulimit -v`, or on a machine that does not overcommit: the allocator fails."""
    job = _start(place, name, *BIG)
    for process in job.processes:
        _wait_for(lambda: len(read_records(_folder(place, name))) == 2, job)
        used = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(process.pid, resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
    assert 0 not in job.wait()


def killed_for_memory(place: Path, name: str) -> None:
    """In a control group that is too small for it, one rank is killed by the kernel."""
    group = GROUPS / f"dstrain_ends_{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(200 * 2**20))
    except OSError as error:
        raise NotPermitted(f"no control group of our own: {error.strerror}") from None
    try:
        job = _start(place, name, *BIG)
        (group / "cgroup.procs").write_text(str(job.processes[1].pid))
        assert job.wait()[1] == -signal.SIGKILL
        time.sleep(1.0)  # its observer's last word
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def stopped(place: Path, name: str) -> None:
    job = _training(place, name)
    job.send(signal.SIGSTOP, [1])
    job.wait()


def stuck(place: Path, name: str) -> None:
    """One rank holds the interpreter's lock in native code; the other one waits for it in a collective."""
    import small_run
    from stuck_runs import Ranks
    small_run.lay_out(place)
    ranks = Ranks(place, "run", 2, {1: ("native", "step", 40)}, f"run.dir={name}", "run.steps=1000")
    ranks.outcome(time.time())


def killed_under_a_launcher(place: Path, name: str) -> None:
    """DeepSpeed's launcher kills the others, too: the first one is told."""
    launcher = subprocess.Popen(
        [Path(sys.executable).with_name("deepspeed"), "--num_accelerators", "2", str(harness.ROOT / "launch/train.py"),
         "run.yaml", f"run.dir={name}", "run.steps=100000"], cwd=place, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(harness.ROOT)})
    try:
        _wait_for(lambda: _steps_done(_folder(place, name)) > 3, None)
        os.kill(read_records(_folder(place, name))[1].pid, signal.SIGKILL)
        launcher.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def running(place: Path, name: str) -> Callable[[], object]:
    job = _training(place, name)
    return lambda: (job.send(signal.SIGKILL), job.wait())


ENDS: dict[str, End] = {
    "finished": End(finished, ["it finished, at step 6", r"newest checkpoint is \S+step_00000006"]),
    "finished-before": End(finished_before, ["it finished, at step 6", "earlier attempts:\n.*step 6: it finished"]),
    "started-over": End(started_over, [r"(?s)\A(?!.*earlier attempts).*it finished, at step 6"]),
    "killed": End(killed, [r"rank 1 on \S+ \(process \d+\) was killed from outside \(as by SIGKILL\), ",
                           r"GiB of memory were left", KEPT]),
    "killed-alone": End(killed_alone, [r"rank 0 on \S+ \(process \d+\) was killed from outside", KEPT]),
    "all-killed": End(all_killed, [r"all 2 ranks were killed from outside \(as by SIGKILL\) at once", KEPT]),
    "rank-and-observer-killed": End(rank_and_observer_killed, [r"rank 1 on \S+ .*ended together with its observer",
                                                               "most likely both were killed", KEPT]),
    "all-lost": End(all_lost, ["all 2 ranks on .* without a word", "most likely the whole job was killed", KEPT]),
    "crashed": End(crashed, ["rank 1 on .*crashed in native code: Segmentation fault", r"blackbox/rank_\*\.stack"]),
    "preempted": End(preempted, [r"asked to leave \(preempted\)", "left at step", "on SIGTERM", KEPT,
                                 "no step is lost"]),
    "preempted-twice": End(preempted_twice, ["on SIGUSR1", r"earlier attempts:\n.*\(preempted\).*on SIGTERM"]),
    "preempted-too-soon": End(preempted_too_soon, [r"asked to leave \(SIGTERM\), as in a preemption, and was killed",
                                                   "more time between the request and the kill", KEPT]),
    "asked-in-the-start-up": End(asked_in_the_start_up, [r"asked to leave \(preempted\)", "before the first step",
                                                         NOTHING_KEPT]),
    "out-of-time": End(out_of_time, ["its time was nearly over", r"on run\.max_minutes=0\.2", KEPT]),
    "ctrl-c": End(stopped_by_hand, [f"it was stopped by Ctrl-C, r{ON}, ", KEPT]),
    "nan": End(gradients_that_are_nan, ["it gave up, for its gradients were NaN or Inf: step 3: the last 2 steps",
                                           r"optim\.lr"]),
    "nan-again": End(the_same_again, ["2 times in a row"]),
    "bad-data": End(bad_data, ["its data could not be read", r"bad\.jsonl, line \d+: not JSON", "first step's rows",
                               NOTHING_KEPT]),
    "bad-data-later": End(bad_data_later, ["its data could not be read", "waiting for the rows of step",
                                           r"late\.jsonl, line \d+: not JSON", KEPT]),
    "bad-validation-data": End(bad_validation_data_later, ["its data could not be read, rank \\d", "in the validation",
                                                           r"late_valid\.jsonl, line \d+"]),
    "mistake": End(mistake_after_the_lock, ["kept it from going on", "going on from a checkpoint", r"model\.width",
                                            r"earlier attempts:\n.*it finished"]),
    "disk-full": End(disk_full, ["the disk was full", "iB free|bytes free|No space left", KEPT, "ake room"]),
    "folder-vanished": End(folder_vanished, ["removed or moved|is gone|is not there", KEPT]),
    "no-more-address-space": End(no_more_address_space, ["it ran out of memory", f"r{ON}, in the start-up",
                                                         "building the engine",
                                                         r"batch\.micro_rows"]),
    "killed-for-memory": End(killed_for_memory, ["it ran out of memory: ", "the kernel", "rank 1 on"]),
    "stopped": End(stopped, [r"it was ended because rank 1 on \S+, process \d+, is stopped \(as by SIGSTOP\)"]),
    "stuck": End(stuck, [r"it was ended because rank 1 on \S+, process \d+, has given no sign for \d+ s, in step",
                         "tacks of all ranks"]),
    "killed-under-a-launcher": End(killed_under_a_launcher, [r"rank 1 on \S+ \(process \d+\)", "killed from outside",
                                                             KEPT]),
    "running": End(running, ["it is still running, ", "since 20"]),
}


def tell(place: Path, name: str) -> tuple[str, list[str]]:
    """(What postmortem prints of that end, what is missing in it)."""
    afterwards = ENDS[name].bring_about(place, name)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["postmortem", str(_folder(place, name))])
    if callable(afterwards):
        afterwards()
    missing = [words for words in ENDS[name].says if not re.search(words, out.getvalue())]
    return out.getvalue(), missing + [f"exit code {code}"] * (code != 0)


def _folder(place: Path, name: str) -> Path:
    return place / name / "run"


def _start(place: Path, name: str, *overrides: str, world: int = 2) -> harness.Job:
    return harness.start(place, f"run.dir={name}", *overrides, world=world)


def _training(place: Path, name: str, world: int = 2) -> harness.Job:
    """One that has committed a checkpoint and does steps."""
    began = time.time()
    job = _start(place, name, "run.steps=100000", "checkpoint.keep=3", world=world)
    _wait_for(lambda: _steps_done(_folder(place, name), began) > 3
              and any((_folder(place, name) / "checkpoints").glob("step_*")), job)
    return job


def _steps_done(folder: Path, began: float = 0.0) -> int:
    """By all ranks of an attempt that began after `began`."""
    return min((record.step * (record.started > began and record.phase != "start") for record in read_records(folder)),
               default=0)


def _wait_for(what: Callable[[], object], job: harness.Job | None, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline or (job is not None and not all(map(_lives, job.processes))):
            raise AssertionError(f"it did not come so far:\n{job.words() if job is not None else ''}")
        time.sleep(0.02)


def _lives(process) -> bool:
    return process.is_alive()


def _kill_with_observers(job: harness.Job, ranks: list[int]) -> None:
    numbers = [job.processes[rank].pid for rank in ranks]
    for number in [*_children(numbers), *numbers]:
        os.kill(number, signal.SIGKILL)


def _children(numbers: list[int]) -> list[int]:
    return [int(child) for number in numbers
            for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


@contextlib.contextmanager
def _small_disk(at: Path) -> Iterator[Path]:
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "dstrain-ends", str(at)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        raise NotPermitted("only root can mount a small disk")
    try:
        yield at
        kept = at.with_name(at.name + "_kept")
        shutil.copytree(at / "run", kept / "run", symlinks=True, ignore=shutil.ignore_patterns("filler"))
    finally:
        subprocess.run(["umount", "-l", str(at)], capture_output=True)
    shutil.copytree(kept, at, dirs_exist_ok=True, symlinks=True)


def run(names: list[str]) -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        place = harness.lay_out(Path(folder))
        for name in names:
            began = time.monotonic()
            try:
                words, missing = tell(place, name)
            except NotPermitted as why:
                print(f"--- {name}: skipped: {why}\n", flush=True)
                continue
            except AssertionError as error:
                words, missing = "", [f"it did not end as it should: {error}"]
            wrong += bool(missing)
            said = words.replace(str(place), "runs")
            print(f"--- {name}: {'WRONG: ' + str(missing) if missing else 'right'} ({time.monotonic() - began:.0f} s)\n"
                  f"{said}", flush=True)
    print(f"{wrong} of {len(names)} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *ENDS], metavar="NAME", help=", ".join(ENDS))
    sys.exit(run(parser.parse_args().names or list(ENDS)))

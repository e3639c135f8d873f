"""Real trainings that are hurt from outside: every rank a forked process that runs the production command line.

A server process imports torch, DeepSpeed and dstrain once; ranks are forked from it, so a start costs about a second
instead of eight. Everything else is as a launcher would do it: RANK, WORLD_SIZE and a free port in the environment,
`dstrain train` with its arguments, exit codes, signals to process ids. Ranks write to files; none is left behind.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

from dstrain.config.load import load_recipe  # noqa: E402
from dstrain.doctor.proofs.resume import compare_runs  # noqa: E402
from dstrain.guard.blackbox import record_path  # noqa: E402
from dstrain.guard.observer import STACK_SIGNAL  # noqa: E402
from dstrain.runtime.dist import free_port  # noqa: E402

RECIPE = """# seven uneven rows over the ranks, dropout on, a save after every second step, validations between
family: lm
model: {width: 32, heads: 2, layers: 2, ff: 64, dropout: 0.1}
tokenizer: bytes
data: {train: [{path: corpus.txt, documents: lines}], valid: [{path: valid.txt, documents: lines}], lanes: 7}
batch: {rows: 7, micro_rows: 4, length: 32}
schedule: {warmup_steps: 4}
run: {name: run, steps: 24}
valid: {every: 5}
checkpoint: {every: 2, keep: 99}
log: {every: 3, samples: 1, norms_every: 10}
"""
HANGS_AFTER_S = 120.0


def lay_out(folder: Path) -> Path:
    """The recipe and its text in an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(RECIPE)
    (folder / "corpus.txt").write_text("".join(
        f"{'word ' * (n % 9)}line {n} says that {n} plus one is {n + 1}\n" for n in range(1500)))
    (folder / "valid.txt").write_text("".join(f"{n} plus one is {n + 1}\n" for n in range(60)))
    return folder


@dataclass
class Job:
    """One call of `dstrain train` on some ranks."""

    processes: list[Any]
    out: list[Path]
    began: float = field(default_factory=time.monotonic)

    def send(self, number: int, ranks: list[int] | None = None) -> None:
        """A signal to all ranks, or to some; those that are gone are left alone."""
        for rank, process in enumerate(self.processes):
            if (ranks is None or rank in ranks) and process.is_alive():
                try:
                    os.kill(process.pid, number)
                except ProcessLookupError:
                    pass

    def trains_within(self, seconds: float = HANGS_AFTER_S) -> bool:
        """Whether the first rank has said what it is about to train, before it ended."""
        deadline = time.monotonic() + seconds
        while self.processes[0].is_alive() and time.monotonic() < deadline:
            if self.out[0].is_file() and "time   " in self.out[0].read_text(errors="replace"):
                return True
            time.sleep(0.01)
        return False

    def ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return not any(process.is_alive() for process in self.processes)

    def wait(self, seconds: float = HANGS_AFTER_S) -> list[int]:
        """Exit codes, by rank; a rank that hangs is killed and the harness ends with what it printed."""
        if not self.ended_within(seconds):
            hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
            self.send(STACK_SIGNAL)  # each writes all its threads' stacks into the run's black box
            time.sleep(1.0)
            self.send(signal.SIGKILL)
            self.ended_within(10.0)
            raise AssertionError(f"ranks {hung} hung for {seconds:.0f} s:\n{self.words()[-2000:]}")
        return [process.exitcode for process in self.processes]

    def words(self) -> str:
        """What all ranks printed."""
        return "".join(f"--- rank {rank}\n{path.read_text(errors='replace')}" for rank, path in enumerate(self.out)
                       if path.is_file())


def start(place: Path, *overrides: str, world: int = 2) -> Job:
    """`dstrain train run.yaml ...` in `place`, on `world` ranks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dstrain.train.trainer", "dstrain.families", "dstrain.commands.train",
                                    "torch.utils.tensorboard"])
    out = [place / f"rank{rank}.out" for rank in range(world)]
    for path in out:
        path.unlink(missing_ok=True)
    port = free_port()
    processes = [context.Process(target=_rank, args=(place, overrides, rank, world, port, out[rank]))
                 for rank in range(world)]
    for process in processes:
        process.start()
    return Job(processes, out)


def differences(place: Path, straight: str, other: str) -> tuple[list[str], int]:
    """(what differs, how much was compared) between two finished runs, named by their run.dir."""
    return compare_runs(place / straight, place / other, load_recipe(str(place / "run.yaml")))


def where(place: Path, run_dir: str, rank: int = 0, wait_s: float = 3.0) -> str:
    """The phase in which a rank ended, as its observer wrote it down: start, data, step, validation, saving ..."""
    import json
    deadline = time.monotonic() + wait_s
    while True:
        try:
            record = json.loads(record_path(place / run_dir / "run", rank).read_text())
        except (OSError, ValueError):
            record = {}
        if record.get("gone") or record.get("ending"):
            return (record.get("ending") or record)["phase"]
        if time.monotonic() > deadline:
            return record.get("phase", "start")
        time.sleep(0.05)


def _rank(place: Path, overrides: tuple[str, ...], rank: int, world: int, port: int, out: Path) -> None:
    """The life of a rank, in a process group of its own: what is sent to one reaches no other."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
    os.chdir(place)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu",
                      PYTHONPATH=str(ROOT))
    import warnings

    import torch
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.argv = ["dstrain", "train", "run.yaml", *overrides]
    from dstrain.__main__ import main
    try:
        sys.exit(main(["train", "run.yaml", *overrides]))
    finally:
        atexit._run_exitfuncs()  # multiprocessing's own end of a process leaves them out

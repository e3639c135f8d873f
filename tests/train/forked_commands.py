"""The dstrain command in processes forked from one that has imported torch and DeepSpeed: a run in half a second.

What runs is the command line itself, with exit codes and printed lines as a user gets them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

from dstrain.runtime.dist import free_port
from dstrain.runtime.rank_group import _importable_main

DEADLINE_S = 60.0


class Ended(NamedTuple):
    """How a command ended, rank by rank; what its ranks printed, in rank order."""

    codes: list[int]
    out: str
    errors: str


class Started:
    """Ranks at work. `before` is called in each of them, with its rank, before anything else."""

    def __init__(self, place: Path, arguments: list[str], ranks: int = 1, before: Callable[[int], None] | None = None,
                 environment: dict[str, str] | None = None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["dstrain.runtime.engine", "dstrain.train.event_file", "dstrain.train.trainer",
                                        "dstrain.families"])
        self.logs = Path(place) / "logs"
        self.logs.mkdir(exist_ok=True)
        port, self.processes = free_port(), []
        self._name = f"{time.monotonic_ns()}"
        with _importable_main():
            for rank in range(ranks):
                of_group = {} if ranks == 1 else {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
                    "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                process = context.Process(target=_serve, daemon=True, args=(
                    str(place), arguments, rank, str(self._log(rank)), before, {**of_group, **(environment or {})}))
                process.start()
                self.processes.append(process)

    def ended(self) -> Ended:
        """Wait; ranks that hang are killed, and their code is -9."""
        deadline = time.monotonic() + DEADLINE_S
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        return Ended([process.exitcode for process in self.processes], *self._printed())

    def waits_for(self, words: str) -> None:
        """Until some rank has printed them."""
        deadline = time.monotonic() + DEADLINE_S
        while words not in "".join(self._printed()):
            assert any(process.is_alive() for process in self.processes), (words, self._printed())
            assert time.monotonic() < deadline, (words, self._printed())
            time.sleep(0.01)

    def _log(self, rank: int) -> Path:
        return self.logs / f"{self._name}.{rank}"

    def _printed(self) -> tuple[str, str]:
        return tuple("".join(path.read_text() for rank in range(len(self.processes))
                             if (path := Path(f"{self._log(rank)}.{kind}")).is_file()) for kind in ("out", "err"))


def command(place: Path, *arguments: str, **options) -> Ended:
    return Started(place, list(arguments), **options).ended()


def _serve(place: str, arguments: list[str], rank: int, log: str, before: Callable[[int], None] | None,
           environment: dict[str, str]) -> None:
    for descriptor, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{kind}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644), descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
    os.chdir(place)
    os.environ.update(environment, OMP_NUM_THREADS="1")
    sys.argv = ["dstrain", *arguments]
    import torch

    from dstrain.__main__ import main
    torch.set_num_threads(1)
    if before is not None:
        before(rank)
    sys.exit(main(arguments))

"""Real ranks on this machine, kept alive for several calls: what the doctor and the tests prove things on.

The ranks are forked from a server process that has imported the heavy packages and done nothing else, so a group of
them starts in about a second and no thread pool is ever forked.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from typing import Any, Callable, Iterator

import torch

from dstrain.runtime.dist import free_port, start_ranks, stop_ranks


class RankError(RuntimeError):
    """A rank failed; carries its traceback."""


class RankGroup:
    """`world` ranks that run the same function, one call after the other. Use as a context manager."""

    def __init__(self, world: int, threads: int = 1, device: str = "cpu"):
        """On GPUs each rank is a process of its own from the start: CUDA does not survive a fork."""
        context: Any = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
        if device == "cpu":
            context.set_forkserver_preload(["dstrain.runtime.engine"])
            with _deaf_to_ctrl_c():
                forkserver.ensure_running()
        self.world = world
        self._pipes = []
        self._processes = []
        port = free_port()
        with _importable_main():
            for rank in range(world):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, rank, world, port, threads, os.getpid(), device),
                                          daemon=True)
                with _deaf_to_ctrl_c() if device != "cpu" else contextlib.nullcontext():  # a fork waits for the server
                    process.start()
                there.close()
                self._pipes.append(here)
                self._processes.append(process)

    def run(self, function: Callable, *args: Any, timeout_s: float = 300.0) -> list:
        """function(ranks, *args) on every rank; their results in rank order. A failing rank ends the whole group."""
        for pipe in self._pipes:
            pipe.send((function, args))
        results: list = [None] * self.world
        waiting = dict(zip(self._pipes, range(self.world)))
        deadline = time.monotonic() + timeout_s
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise RankError(f"ranks {sorted(waiting.values())} of {self.world} did not answer within "
                                f"{timeout_s:.0f} s ({getattr(function, '__name__', function)})")
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    well, results[rank] = pipe.recv()
                except EOFError:
                    well, results[rank] = False, f"rank {rank} died"
                if not well:
                    self.close()
                    raise RankError(f"rank {rank} of {self.world}:\n{results[rank]}")
        return results

    def close(self) -> None:
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except OSError:
                pass  # that rank is gone already
        deadline = time.monotonic() + 2.0
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()
        self._pipes, self._processes = [], []

    @property
    def alive(self) -> bool:
        return bool(self._processes) and all(process.is_alive() for process in self._processes)

    def __enter__(self) -> "RankGroup":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def _serve(pipe: Any, rank: int, world: int, port: int, threads: int, parent: int, device: str) -> None:
    """The life of one rank: join the others, then answer calls until told to stop or left alone."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS=str(threads),
                      DS_ACCELERATOR=device)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as its server: multiprocessing unblocks it on the way
    torch.set_num_threads(threads)
    ranks = None
    while True:
        while not pipe.poll(1.0):
            if os.getppid() == 1 or not _is_alive(parent):
                return
        try:
            call = pipe.recv()
        except EOFError:  # the caller is gone, or gave this group up while it was starting
            return
        if call is None:
            stop_ranks()
            return
        function, args = call
        try:
            ranks = ranks or start_ranks()
            answer = (True, function(ranks, *args))
        except BaseException:  # reported whole to the caller, who ends the group
            answer = (False, traceback.format_exc())
        sys.stdout.flush()
        pipe.send(answer)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What starts in here never hears of it, though a terminal sends it to all: the caller ends its ranks itself."""
    resource_tracker.ensure_running()  # before the signal is blocked: it would unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class _importable_main:
    """Keeps multiprocessing from importing the caller's __main__ again in every rank (a pytest or a script)."""

    def __enter__(self) -> None:
        main = sys.modules["__main__"]
        self._kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
        main.__spec__ = None
        if hasattr(main, "__file__"):
            del main.__file__

    def __exit__(self, *exception: Any) -> None:
        for name, value in self._kept.items():
            setattr(sys.modules["__main__"], name, value)

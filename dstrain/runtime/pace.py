"""Which rank holds up the others: every rank's own time in a step, without what it waits for in collectives.

On a CPU the collectives are timed as they are called; and what a rank waited for a core is left out at first: for a
moment, other programs hold up any rank of a busy machine. On a GPU collectives are queued: there a step's own time is
what its forward passes take on the device, at ZeRO stages 0 to 2, where no collective stands between their layers; at
stage 3 nothing is compared.
"""

from __future__ import annotations

import socket
from typing import Any, Callable

import torch
import torch.distributed as torch_dist
from deepspeed.comm import comm

from dstrain.guard.pulse import Pulse
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine

WINDOW_STEPS = 5
SLOW = 1.6
"""times the lower median of all ranks: named if it is that slow in two windows running"""
NOT_SLOW = 1.3
"""below this, in two windows running, it has recovered, and would be named again"""
LONG_LOOK_S = 3.0
"""a window of the ranks' clocks, which run on while other programs have the cores"""
NOTICEABLE_S = 0.002
"""a step; smaller differences are nobody's concern"""
COLLECTIVES = ("all_reduce", "all_reduce_coalesced", "inference_all_reduce", "reduce", "reduce_scatter",
               "reduce_scatter_tensor", "broadcast", "broadcast_object_list", "all_gather", "all_gather_into_tensor",
               "all_gather_base", "all_gather_coalesced", "all_gather_object", "all_to_all_single", "all_to_all",
               "send", "recv", "batch_isend_irecv", "gather", "scatter", "barrier", "monitored_barrier")


class Pace:
    """Compares the ranks every few steps. All ranks call its methods together."""

    def __init__(self, engine: Engine, ranks: Ranks):
        on_gpu = ranks.device.type == "cuda"
        self.ranks = ranks
        self.compares = ranks.world > 1 and not (on_gpu and engine.stage == 3)
        self._device = _DeviceClock(engine.trainee) if on_gpu and self.compares else None
        self.slowest: dict[str, float] = {}
        """for TensorBoard: which rank is slowest, and how many times as slow as the median"""
        self._hosts = ranks.gather(socket.gethostname())
        self._own_s: list[tuple[float, float]] = []
        self._asked: tuple[Any, torch.Tensor] | None = None
        self._by_running, self._by_clock = Judge(ranks.world), Judge(ranks.world)
        self._clocks_s = [0.0] * ranks.world
        mark_collectives(ranks.pulse)
        if self.compares and not on_gpu:
            ranks.pulse.coreless_s = coreless_s

    def stepped(self, data_wait_s: float) -> list[str]:
        """Note a step; what is to be said about slow ranks, the same on all of them."""
        if not self.compares:
            return []
        news = self._answer()
        pulse = self.ranks.pulse
        on_gpu_s = None if self._device is None else self._device.read_s() + data_wait_s
        self._own_s.append((pulse.own_running_s, pulse.own_s) if on_gpu_s is None else (on_gpu_s, on_gpu_s))
        if len(self._own_s) == WINDOW_STEPS:
            all_s = torch.zeros(2, self.ranks.world, dtype=torch.float64)
            all_s[:, self.ranks.rank] = torch.tensor([typical(seconds) for seconds in zip(*self._own_s)])
            self._own_s.clear()
            # Nobody waits for it: it is read after the next step.
            self._asked = torch_dist.all_reduce(all_s, group=self.ranks.side_group, async_op=True), all_s
        return news

    def _answer(self) -> list[str]:
        if self._asked is None:
            return []
        work, all_s = self._asked
        self._asked = None
        work.wait()
        running_s, by_clock_s = all_s.tolist()
        usual_s = lower_median(by_clock_s)
        rank = max(range(len(by_clock_s)), key=by_clock_s.__getitem__)
        self.slowest = {"perf/slowest_rank": rank, "perf/slowest_rank_factor": by_clock_s[rank] / max(usual_s, 1e-9)}
        news = self._by_running.newly_slow(running_s)
        return [self._words(rank, running_s) for rank in news] + self._slow_by_clock(by_clock_s, news)

    def _slow_by_clock(self, own_s: list[float], said: list[int]) -> list[str]:
        """Other programs on a rank's cores hold it up, too, but for moments they do so everywhere: a longer look."""
        self._clocks_s = [so_far_s + WINDOW_STEPS * seconds for so_far_s, seconds in zip(self._clocks_s, own_s)]
        if max(self._clocks_s) < LONG_LOOK_S:
            return []
        clocks_s, self._clocks_s = self._clocks_s, [0.0] * len(own_s)
        slow = [rank for rank in self._by_clock.newly_slow(clocks_s)
                if rank not in said and not self._by_running.names(rank)]
        return [self._words(rank, own_s) for rank in slow]

    def _words(self, rank: int, own_s: list[float]) -> str:
        usual_s = lower_median(own_s)
        return (f"rank {rank} on {self._hosts[rank]} is slow: {own_s[rank] / usual_s:.1f} times the own time of the "
                f"others ({own_s[rank]:.3f} s a step, they {usual_s:.3f} s), and all wait for it in every step")


def coreless_s() -> float:
    """How long this thread was ready to run, while others had all cores; 0 where the kernel does not count it."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read(64).split()[1]) / 1e9
    except OSError:
        return 0.0


class Judge:
    """Names a rank once an episode: when it was slow in two windows running."""

    def __init__(self, world: int):
        self._slow, self._fine = [0] * world, [0] * world
        self._named = [False] * world

    def names(self, rank: int) -> bool:
        """Whether it is slow by now, and has been named for it."""
        return self._named[rank]

    def newly_slow(self, own_s: list[float]) -> list[int]:
        usual_s = lower_median(own_s)
        news = []
        for rank, seconds in enumerate(own_s):
            slow = seconds > SLOW * usual_s and seconds - usual_s > NOTICEABLE_S
            self._slow[rank] = self._slow[rank] + 1 if slow else 0
            self._fine[rank] = self._fine[rank] + 1 if seconds < NOT_SLOW * usual_s else 0
            if self._slow[rank] >= 2 and not self._named[rank]:
                self._named[rank] = True
                news.append(rank)
            if self._fine[rank] >= 2:
                self._named[rank] = False
        return news


def typical(own_s: list[float]) -> float:
    """Of a window's steps: the median, which one slow step does not move."""
    return sorted(own_s)[len(own_s) // 2]


def lower_median(own_s: list[float]) -> float:
    """Of two ranks the faster one's."""
    return sorted(own_s)[(len(own_s) - 1) // 2]


def mark_collectives(pulse: Pulse) -> None:
    """From now on DeepSpeed's collectives tell `pulse` when they begin and end."""
    backend = comm.cdb
    marked = getattr(backend, "marked_for_pulse", None)
    if marked is None:
        marked = backend.marked_for_pulse = _Marked()
        for name in COLLECTIVES:
            if hasattr(backend, name):
                setattr(backend, name, marked.around(name, getattr(backend, name)))
    marked.pulse = pulse


class _DeviceClock:
    """What a module's forward passes take on the GPU, by its own clock; nothing waits for it."""

    def __init__(self, module: torch.nn.Module):
        self._events: list[torch.cuda.Event] = []
        module.register_forward_pre_hook(self._note)
        module.register_forward_hook(self._note)

    def read_s(self) -> float:
        """Of the passes since the last call, after the device has ended them."""
        events, self._events = self._events, []
        return sum(begin.elapsed_time(end) for begin, end in zip(events[::2], events[1::2])) / 1000

    def _note(self, module: torch.nn.Module, *_: Any) -> None:
        if module.training:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)


class _Marked:
    pulse: Pulse

    def around(self, name: str, collective: Callable) -> Callable:
        @torch.compiler.disable
        def waits(*arguments: Any, **named: Any) -> Any:
            pulse = self.pulse
            pulse.wait(name)
            try:
                work = collective(*arguments, **named)
            finally:
                pulse.waited()
            return _Work(work, name, pulse) if hasattr(work, "wait") else work
        return waits


class _Work:
    """A collective under way: waiting for it is waiting for the others."""

    def __init__(self, work: Any, name: str, pulse: Pulse):
        self._work, self._name, self._pulse = work, name, pulse

    def wait(self, *arguments: Any, **named: Any) -> Any:
        with self._pulse.waiting(self._name):
            return self._work.wait(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

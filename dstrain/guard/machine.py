"""What the machine says of a process and of its memory, read from /proc and the control groups (version 1 or 2)."""

from __future__ import annotations

import os
import time
from pathlib import Path

GIB = 2**30


def process_state(pid: int) -> str:
    """R running, S sleeping, D waiting for a disk, T stopped, t under a debugger, Z dead; "" where it is gone."""
    fields = _stat(pid)
    return fields[0].decode() if fields else ""


def age_s(pid: int) -> float | None:
    """Since the process was started; None where it is gone."""
    born = started_at(pid)
    return None if born is None else time.clock_gettime(time.CLOCK_BOOTTIME) - born / os.sysconf("SC_CLK_TCK")


def started_at(pid: int) -> int | None:
    """When a process began, in the kernel's own count: a process number may be given again. None where it is gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def resident_gib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB
    except OSError:
        return 0.0


def boot_id() -> str:
    return _text(Path("/proc/sys/kernel/random/boot_id"))


class Memory:
    """Of this process's control group, those above it, and the machine."""

    def __init__(self, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")):
        self._proc = proc
        self._levels = _levels(_text(proc / "self/cgroup"), groups)
        self._kills_before = self._kills()

    def left_gib(self) -> float | None:
        """Until the machine is full, or the control group that is fullest; what can be dropped counts as free."""
        left = [rest for level in self._levels if (rest := _left_bytes(level)) is not None]
        for line in _text(self._proc / "meminfo").splitlines():
            if line.startswith("MemAvailable:"):
                left.append(1024 * int(line.split()[1]))
        return min(left) / GIB if left else None

    def oom_kills(self) -> int:
        """Processes that the kernel has killed here for want of memory since this object was made."""
        return max(0, self._kills() - self._kills_before)

    def _kills(self) -> int:
        for level in self._levels[:1]:  # the own one: others' deaths are not counted
            for name in ("memory.events", "memory.oom_control"):
                if (kills := _value(level / name, "oom_kill")) is not None:
                    return kills
        return 0


def _stat(pid: int) -> list[bytes]:
    """What the kernel says of a process, from its state on; empty where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return stat[stat.rindex(b")") + 2:].split()  # the name before it may hold anything


def _levels(memberships: str, groups: Path) -> list[Path]:
    """The folders of this process's memory control group and of those above it, the own one first."""
    for line in memberships.splitlines():
        _, kinds, path = line.split(":", 2)
        root = groups / "memory" if kinds == "memory" else groups if kinds == "" else None
        if root is None or not (kinds == "memory" or (groups / "cgroup.controllers").exists()):
            continue
        own = root / path.lstrip("/")
        own = own if own.is_dir() else root  # in a container its own group is mounted as the root
        return [own, *(parent for parent in own.parents if parent == root or root in parent.parents)]
    return []


def _left_bytes(level: Path) -> int | None:
    for limit_name, usage_name, dropped_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")):
        limit, usage = _text(level / limit_name), _text(level / usage_name)
        if limit.isdigit() and usage.isdigit():
            return int(limit) - int(usage) + (_value(level / "memory.stat", dropped_name) or 0)
    return None


def _value(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

"""Small disks that can be filled, made read-only or taken away, for tests of runs in bad places. They need root."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

FILLER = "filler"


@contextlib.contextmanager
def small_disk(at: Path, size: str = "4m") -> Iterator[Path]:
    """A file system of so many bytes, in memory."""
    at.mkdir(parents=True, exist_ok=True)
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "dstrain-test", str(at)], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("only root can mount the small disks that this test fills")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], capture_output=True)


def fill(disk: Path) -> None:
    """Until not one byte more can be written."""
    file = os.open(disk / FILLER, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for size in (65536, 4096, 1):
        with contextlib.suppress(OSError):
            while os.write(file, b"f" * size):
                pass
    os.close(file)


def make_room(disk: Path) -> None:
    (disk / FILLER).unlink()


def before_call(where: str, at: int, act: Callable[[], Any], of_rank: int, rank: int) -> None:
    """In rank `of_rank`: call `act` just before call number `at` of a function, named module:function."""
    if rank != of_rank:
        return
    module, _, path = where.partition(":")
    owner = importlib.import_module(module)
    *parts, name = path.split(".")
    for part in parts:
        owner = getattr(owner, part)
    inner, calls = getattr(owner, name), []

    @functools.wraps(inner)
    def watched(*arguments, **named):
        calls.append(name)
        if len(calls) == at:
            act()
        return inner(*arguments, **named)

    setattr(owner, name, watched)


def moved(disk: Path) -> None:
    os.rename(disk / "small", disk / "away")


def moved_back(disk: Path) -> None:
    shutil.rmtree(disk / "small", ignore_errors=True)
    os.rename(disk / "away", disk / "small")


def replaced(disk: Path) -> None:
    moved(disk)
    (disk / "small").mkdir()


def removed(disk: Path, name: str = "small") -> None:
    shutil.rmtree(disk / name)


def unmounted(disk: Path) -> None:
    subprocess.run(["umount", "-l", str(disk)], check=True)


def read_only(disk: Path) -> None:
    """For whoever opens a file from now on."""
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)


def writable_again(disk: Path) -> None:
    subprocess.run(["umount", str(disk)], check=True)


def odd_clock(days: tuple[int, int], where: str, at: int, rank: int) -> None:
    """The clock is right at first, then so many days wrong, then so many others; the disk is full at that call."""
    right, calls = time.time, []

    def wrong() -> float:
        calls.append(1)
        return right() + 86_400 * (0 if len(calls) < 5 else days[len(calls) // 15 % 2])

    time.time = wrong
    before_call(where, at, no_room, 0, rank)


def no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

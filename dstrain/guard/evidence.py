"""What else tells how a process ended that said nothing: the kernel's log, and the stacks that a crash leaves."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from pathlib import Path

from dstrain.guard import machine
from dstrain.guard.blackbox import Record, request_path, stack_path

INITIAL_PIDS = "pid:[4026531836]"
"""the namespace whose process numbers the kernel's log has"""
WITHIN_S = 120.0
"""of the rank's end: process numbers are used again"""


def crash_of(run_folder: Path, record: Record) -> str | None:
    """What faulthandler wrote when the process crashed in native code: the signal, and the Python line it came from."""
    try:
        text = stack_path(run_folder, record.rank).read_text(errors="replace")
    except OSError:
        return None
    fatal = re.search(r"^Fatal Python error: (.+)$", text, re.MULTILINE)
    if fatal is None:
        return None
    line = re.search(r'^Current thread.*\n  File "(.+)", line (\d+) in (.+)$', text[fatal.end():], re.MULTILINE)
    if line is None:
        return fatal[1]
    return f"{fatal[1]}, below {line[3]} in {'/'.join(Path(line[1]).parts[-3:])}, line {line[2]}"


def asked_of(run_folder: Path, record: Record) -> tuple[float, str] | None:
    """When it was asked to leave, and by what."""
    try:
        found = json.loads(request_path(run_folder, record.rank).read_bytes())
        return float(found["at"]), str(found["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def killed_for_memory(record: Record, log: list[tuple[float, str]]) -> str | None:
    """What the kernel's log says of it: how much memory it had, or "" where that is not told."""
    for at, line in log:
        if re.search(rf"\bKilled process {record.pid} \(", line) and abs(at - record.at) < WITHIN_S:
            kib = re.search(r"anon-rss:(\d+)kB", line)
            return f"{int(kib[1]) / 2**20:.1f} GiB" if kib else ""
    return None


def kernel_log(records: list[Record]) -> list[tuple[float, str]]:
    """(wall clock, line) of what this machine's kernel logged, where it may be read and can be about these ranks."""
    here, boot = socket.gethostname(), machine.boot_id()
    if not any(record.host == here and record.boot_id == boot for record in records):
        return []
    try:
        if os.readlink("/proc/self/ns/pid") != INITIAL_PIDS:
            return []
        file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        return [(time.time() - time.monotonic() + at, line) for at, line in _lines(file)]
    finally:
        os.close(file)


def _lines(file: int) -> list[tuple[float, str]]:
    """A read gives a line: "priority,number,microseconds since the start,flags;text"."""
    lines = []
    while True:
        try:
            head, _, text = os.read(file, 8192).decode(errors="replace").partition(";")
        except BrokenPipeError:
            continue  # it was overwritten meanwhile: the next one is there
        except OSError:
            return lines
        if not head:
            return lines
        fields = head.split(",")
        if len(fields) > 2 and fields[2].isdigit():
            lines.append((int(fields[2]) / 1e6, text.split("\n", 1)[0]))

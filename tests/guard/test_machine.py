"""What is left of the memory, and whom the kernel killed, in both versions of control groups; a process's state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from dstrain.guard.machine import GIB, Memory, process_state, resident_gib


def test_the_fullest_group_counts_in_version_2(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc / "self/cgroup", "0::/job/step")
    write(proc / "meminfo", f"MemTotal: 9 kB\nMemAvailable: {64 * 2**20} kB\n")
    write(groups / "cgroup.controllers", "memory")
    step, job = groups / "job/step", groups / "job"
    write(step / "memory.max", "max")
    write(step / "memory.current", "1")
    write(step / "memory.events", "oom 3\noom_kill 2\n")
    write(job / "memory.max", str(32 * GIB))
    write(job / "memory.current", str(30 * GIB))
    write(job / "memory.stat", f"anon 5\ninactive_file {GIB}\n")  # can be dropped
    memory = Memory(proc, groups)
    assert memory.left_gib() == 3.0 and memory.oom_kills() == 0
    write(step / "memory.events", "oom 4\noom_kill 3\n")
    assert memory.oom_kills() == 1


def test_version_1_and_a_container_whose_own_group_is_the_root(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc / "self/cgroup", "5:memory:/docker/abc\n4:cpu:/x\n0::/")
    write(proc / "meminfo", f"MemAvailable: {64 * 2**20} kB\n")
    write(groups / "memory/memory.limit_in_bytes", str(8 * GIB))
    write(groups / "memory/memory.usage_in_bytes", str(6 * GIB))
    write(groups / "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5")
    memory = Memory(proc, groups)
    assert memory.left_gib() == 2.0 and memory.oom_kills() == 0


def test_where_nothing_is_known_nothing_is_said(tmp_path):
    memory = Memory(tmp_path, tmp_path)
    assert memory.left_gib() is None and memory.oom_kills() == 0


def test_a_processs_state_and_size():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        os.kill(child.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while process_state(child.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process_state(child.pid) == "T"
    finally:
        child.kill()
        child.wait()
    assert process_state(child.pid) == "" and resident_gib(child.pid) == 0.0
    assert process_state(os.getpid()) in ("R", "S") and resident_gib(os.getpid()) > 0.001


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

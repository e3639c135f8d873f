"""What is said to a closed terminal, or to nobody, ends nothing; a file that fails is still told of."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from small_run import environment

SPEAKS = """
import os, sys, time
from dstrain.guard.bell import Bell
from dstrain.guard.spoken import speak_on

bell, note = Bell(), os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
bell.listen()
speak_on()
bell.meets(); bell.trains()
print("listens", flush=True)
deadline = time.monotonic() + 20
while not bell.rings() and time.monotonic() < deadline:
    print("step", flush=True)
    print("step", file=sys.stderr)
    time.sleep(0.01)
for _ in range(50):
    print("saved", flush=True)
    print("saved", file=sys.stderr)
os.write(note, str(bell.reason).encode())
sys.exit(75)
"""


def test_whoever_closes_the_terminal_asks_to_leave_and_the_last_words_may_go_nowhere(tmp_path):
    child, terminal = pty.fork()  # the child leads a session of its own, with the terminal as its controlling one
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may be running under nohup themselves
        os.execve(sys.executable, [sys.executable, "-c", SPEAKS, str(tmp_path / "note")], environment())
    assert b"listens" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert (tmp_path / "note").read_text() == "SIGHUP"


def test_a_training_that_ignores_the_hang_up_goes_on_without_its_terminal(tmp_path):
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execve(sys.executable, [sys.executable, "-c", SPEAKS, str(tmp_path / "note")], environment())
    assert b"listens" in os.read(terminal, 100)
    os.close(terminal)
    time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert (tmp_path / "note").read_text() == "SIGTERM"


def test_a_reader_that_left_ends_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SPEAKS, str(tmp_path / "note")], env=environment(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    time.sleep(0.3)
    process.terminate()
    assert process.wait(timeout=30) == 75 and (tmp_path / "note").read_text() == "SIGTERM"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_still_told_of(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SPEAKS, str(tmp_path / "note")], env=environment(), text=True,
                              stdout=full, stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 1 and "No space left on device" in done.stderr

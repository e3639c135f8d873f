"""Signals before, in and after a training, in processes that know nothing but the bell."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from small_run import environment

from dstrain.guard.bell import HANGS_UP, LEFT, SIGNALS

HEAD = """
import ctypes, os, signal, subprocess, sys, threading, time
from dstrain.config.errors import Left
from dstrain.guard import bell as module
from dstrain.guard.bell import Bell

class Ranks:
    def gather(self, thing):
        return [thing]

def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)

def rung(bell):
    deadline = time.monotonic() + 5
    while not bell.rings() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bell.reason

bell = Bell()
"""
LISTENS = "bell.listen()\nprint('listens', flush=True)\n"
TRAINS = LISTENS + "bell.meets(); bell.trains()\n"


def ended(script: str, **environs: str) -> tuple[int, str, str, float]:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HEAD + script], env={**environment(), **environs}, text=True,
                          capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - began


@pytest.mark.parametrize("number, hangs", [
    (signal.SIGTERM, "time.sleep(30)"),
    (signal.SIGUSR1, "ctypes.CDLL(None).sleep(30)"),                          # in native code
    (signal.SIGTERM, "ctypes.PyDLL(None).usleep(400_000); time.sleep(30)"),   # holding the interpreter's lock
    (signal.SIGUSR1, "os.read(os.pipe()[0], 1)"),
    (signal.SIGTERM, "threading.Event().wait(30)"),
], ids=["python", "native", "lock held", "read", "wait"])
def test_before_the_ranks_meet_a_signal_ends_the_process_at_once_whatever_it_does(number, hangs):
    code, _, said, took_s = ended(LISTENS + f"threading.Timer(0.1, tell, [{int(number)}]).start()\n{hangs}")
    assert (code, said.count("\n")) == (LEFT, 1) and number.name in said and "the same command goes on" in said
    assert took_s < 5


def test_only_the_first_rank_says_so():
    code, _, said, _ = ended(LISTENS + "tell(); time.sleep(30)", RANK="1", WORLD_SIZE="2")
    assert (code, said) == (LEFT, "")


def test_ranks_that_have_met_leave_the_start_up_together_or_each_by_itself_after_a_while():
    start_up = LISTENS + "bell.meets(); bell.joined(); tell(); print(rung(bell), flush=True)\n"
    code, said, _, _ = ended(start_up + "try: bell.leave_if_rung(Ranks())\nexcept Left as left: print(left)")
    assert code == 0 and "SIGTERM came before the first step" in said
    last_words = "bell.last_words = lambda words: print('last', words, flush=True)\n"
    impatient = "module.START_UP_S = 0.5\n" + last_words + start_up + "time.sleep(30)"
    code, said, words, took_s = ended(impatient)
    assert code == LEFT and "SIGTERM" in words and "last SIGTERM" in said and 0.5 <= took_s < 5


def test_a_rank_that_waits_for_one_that_never_comes_ends_by_itself():
    code, _, said, took_s = ended(LISTENS + "bell.meets(); tell(); time.sleep(30)")
    assert code == LEFT and "SIGTERM" in said and 2 <= took_s < 6


def test_a_rank_lost_in_the_start_up_is_no_fault_after_a_signal_and_one_in_training_is():
    lost = "tell(); rung(bell)\ntry: bell.leave_start_up()\nexcept Left: print('left')"
    assert ended(LISTENS + "bell.meets()\n" + lost)[1] == "listens\nleft\n"
    assert ended(TRAINS + lost)[1] == "listens\n"


@pytest.mark.parametrize("number", [*SIGNALS, HANGS_UP])
def test_in_training_signals_ring_and_nothing_else_however_many(number):
    script = TRAINS + f"for _ in range(20): tell({int(number)}); tell(signal.SIGTERM); time.sleep(0.001)\n"
    code, said, words, _ = ended(script + "print(rung(bell)); time.sleep(0.3)")
    assert (code, words) == (0, "") and said.split()[1] in ("SIGTERM", "SIGUSR1", "SIGHUP")


def test_a_hang_up_that_was_ignored_beforehand_as_by_nohup_stays_so():
    script = f"signal.signal({int(HANGS_UP)}, signal.SIG_IGN)\n" + TRAINS + f"tell({int(HANGS_UP)})\n"
    script += "time.sleep(0.3); print(bell.reason); tell(); print(rung(bell))"
    assert ended(script)[:2] == (0, "listens\nNone\nSIGTERM\n")


def test_no_system_call_of_native_code_is_interrupted():
    script = TRAINS + "threading.Timer(0.1, tell).start()\nprint(ctypes.CDLL(None).sleep(1), rung(bell))"
    assert ended(script)[1] == "listens\n0 SIGTERM\n"  # 0 seconds were left to sleep


def test_a_signal_that_came_before_it_was_blocked_by_the_launcher_and_is_heard():
    script = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); tell(signal.SIGUSR1)\n" + TRAINS
    assert ended(script.replace("bell.meets(); bell.trains()", "time.sleep(30)"))[0] == LEFT


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_that_the_parent_ignored_are_heard(number):
    script = f"signal.signal({int(number)}, signal.SIG_IGN)\n" + TRAINS + f"tell({int(number)}); print(rung(bell))"
    assert ended(script)[1] == f"listens\n{number.name}\n"


def test_a_thread_that_was_there_before_may_take_the_signal():
    script = f"threading.Thread(target=time.sleep, args=[1.0]).start()\n{TRAINS}tell(); print(rung(bell))"
    assert ended(script)[:2] == (0, "listens\nSIGTERM\n")


def test_a_forked_child_dies_of_the_signal_and_its_parent_does_not_hear_it():
    script = TRAINS + """
child = os.fork()
if child == 0:
    time.sleep(30); os._exit(3)
time.sleep(0.2); os.kill(child, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(child, 0)[1])); time.sleep(0.2); print(bell.reason)
"""
    assert ended(script)[1] == f"listens\n{int(signal.SIGTERM)}\nNone\n"


def test_in_the_interpreters_shutdown_the_exit_code_stays():
    script = TRAINS + """
import atexit
class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGTERM):
        kill(own, number)
atexit.register(tell)
sys.late = Late()
threading.Thread(target=lambda: (time.sleep(0.2), tell())).start()
sys.exit(75)
"""
    assert ended(script)[:3] == (LEFT, "listens\n", "")


def test_ctrl_c_after_a_signal_is_still_ctrl_c():
    script = TRAINS + """
try:
    tell(); rung(bell); tell(signal.SIGINT); time.sleep(30)
except KeyboardInterrupt:
    print(bell.reason)
"""
    assert ended(script)[:2] == (0, "listens\nSIGTERM\n")


def test_the_time_limit_rings_before_it_is_over_by_what_is_still_to_be_done():
    script = "bell.limit(1.0)\nprint(bell.rings(), bell.rings(59), bell.rings(61), bell.reason)"
    assert ended(script)[1] == "False False True run.max_minutes=1\n"

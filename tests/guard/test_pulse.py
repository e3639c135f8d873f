"""Signs of life: what a step takes, how long anything may take, and that a reader gets all of it."""

from __future__ import annotations

import time

import pytest
import torch

from dstrain.guard import pulse as pulse_module
from dstrain.guard.pulse import LONG_S, PATIENCE_S, UNKNOWN_S, WITHOUT_END_S, Pulse, SharedPulse, read_sign


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when told."""
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

        time = staticmethod(time.time)

    monkeypatch.setattr(pulse_module, "time", Clock())
    return pulse_module.time


def steps(pulse, clock, *seconds):
    for took in seconds:
        pulse.enter("data")
        pulse.enter("step")
        clock.now += took
        pulse.stepped(pulse.step + 1)


def test_a_step_is_judged_by_the_slowest_of_the_last_50_but_not_by_the_first_which_compiles(clock):
    pulse = SharedPulse()
    steps(pulse, clock, 60, 1, 1)
    assert pulse.slowest_step_s == 60
    pulse.enter("step")
    assert allowed(pulse) == UNKNOWN_S
    steps(pulse, clock, 2)
    assert pulse.slowest_step_s == 2
    pulse.enter("step")
    assert allowed(pulse) == (2 * 2 + PATIENCE_S,) * 2
    steps(pulse, clock, *[1] * 50)
    assert pulse.slowest_step_s == 1


def test_what_passes_in_collectives_or_without_a_core_is_not_its_own_time(clock):
    pulse = Pulse()
    coreless = [0.0]
    pulse.coreless_s = lambda: coreless[0]
    pulse.enter("data")
    clock.now += 1
    pulse.enter("step")
    with pulse.waiting("sum"), pulse.waiting("inside"):
        clock.now += 5
        coreless[0] += 2  # of those five
    clock.now += 4
    coreless[0] += 3  # of those four
    pulse.stepped(1)
    assert pulse.own_s == pytest.approx(1 + 4) and pulse.own_running_s == pytest.approx(1 + 1)
    assert pulse.slowest_step_s == pytest.approx(10)


def test_what_is_no_step_may_take_longer(clock):
    pulse = SharedPulse()
    assert allowed(pulse) == LONG_S["start"]
    steps(pulse, clock, 1, 1, 1, 1)
    assert allowed(pulse) == (2 + PATIENCE_S, WITHOUT_END_S)  # its records are written to a disk
    for phase, expected in [("data", (2 + PATIENCE_S, WITHOUT_END_S)), ("saving", LONG_S["saving"]),
                            ("validation", UNKNOWN_S), ("validation", (2 + PATIENCE_S, WITHOUT_END_S))]:
        pulse.enter(phase)
        assert allowed(pulse) == expected
    pulse.about("samples")
    assert allowed(pulse) == UNKNOWN_S
    pulse.enter("step")
    pulse.takes_long("compiling")
    assert allowed(pulse) == UNKNOWN_S


def test_a_reader_gets_what_was_told(clock):
    pulse = SharedPulse()
    steps(pulse, clock, *[0.5] * 5)
    pulse.enter("step", "micro-batch 1 of 2 \u00e4\u00f6")
    pulse.wait("all_gather_into_tensor")
    sign = read_sign(pulse._memory)
    assert (sign.step, sign.phase, sign.detail, sign.waits_in, sign.signs, sign.ending) == (
        5, "step", "micro-batch 1 of 2 \u00e4\u00f6", "all_gather_into_tensor", 1, None)
    pulse.waited()
    pulse.ended("disk full", "no room\n" + "\u00e4" * 5000)
    pulse.ended("error", "a second cause")
    ending = read_sign(pulse._memory).ending
    assert (ending["cause"], ending["step"], ending["phase"]) == ("disk full", 5, "step")
    assert read_sign(pulse._memory).waits_in == ""


def test_a_reader_in_the_middle_of_a_write_waits_for_its_end():
    pulse = SharedPulse()
    pulse._memory[0] = pulse._memory[0] | 1  # as while it is written
    assert read_sign(pulse._memory) is None
    pulse.enter("saving")
    assert read_sign(pulse._memory).phase == "saving"


def test_a_sign_costs_microseconds():
    pulse, count = SharedPulse(), 20_000
    began = time.perf_counter()
    for _ in range(count):
        pulse.enter("step", "micro-batch 1 of 8")
    assert (time.perf_counter() - began) / count < 50e-6  # about 1.5 of them, on a machine that is not busy


def test_compiling_in_mid_run_is_no_step_that_is_stuck(monkeypatch, tmp_path, clock):
    from dstrain.runtime import compiled
    from dstrain.runtime.dist import Ranks

    monkeypatch.setenv(compiled.FOLDER, str(tmp_path))
    pulse = SharedPulse()
    compiled.keep_compiled(Ranks(0, 1, torch.device("cpu"), None, pulse))
    steps(pulse, clock, *[1] * 5)
    pulse.enter("step")
    assert allowed(pulse) != UNKNOWN_S
    torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(3))
    assert allowed(pulse) == UNKNOWN_S and read_sign(pulse._memory).detail == "compiling"


def allowed(pulse) -> tuple[float, float]:
    sign = read_sign(pulse._memory)
    return sign.named_after_s, sign.ended_after_s

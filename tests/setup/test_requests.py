"""SIGTERM and SIGUSR1 through the launch scripts: to the script, its process group, every process; to torchrun."""

from __future__ import annotations

import signal
import time

import pytest
from launched import LEFT, LOCAL, TORCHRUN

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("numbers, whom, ignored", [
    ([signal.SIGTERM], "script", None),
    ([signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1], "group", signal.SIGUSR1),
    ([signal.SIGTERM], "all", None),
], ids=["script", "group, three times", "all"])
def test_local_saves_leaves_with_75_and_leaves_no_process_behind(launched, numbers, whom, ignored):
    run = launched(LOCAL, ignored)
    run.until("saved")
    for number in numbers:
        run.ask(number, whom)
        time.sleep(0.1)
    assert run.ended() == LEFT, run.said()
    run.saved_all()
    assert "Traceback" not in run.said() and run.said().count("dstrain:") == 1, run.said()


# In bash, in its search for a port, in the launcher's imports.
@pytest.mark.parametrize("after_s", [0.01, 0.05, 0.1, 2.5])
def test_local_asked_while_it_starts_ends_with_75_with_nothing_said_but_that(launched, after_s):
    run = launched(LOCAL)
    time.sleep(after_s)
    run.ask(signal.SIGTERM, "script")
    code = run.ended()
    assert code in (LEFT, -signal.SIGTERM) if after_s < 1 else code == LEFT, run.said()
    assert "Traceback" not in run.said()


def test_torchrun_passes_a_request_on_and_the_ranks_save(launched):
    run = launched(TORCHRUN)
    run.until("saved")
    run.ask(signal.SIGTERM, "script")
    assert run.ended() != 0  # torchrun's own: it knows no code but success
    run.saved_all()

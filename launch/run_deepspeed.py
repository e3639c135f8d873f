"""The deepspeed launcher, as its own command starts it, but for what becomes of signals and of exit codes.

SIGTERM, SIGUSR1 and SIGHUP ask a run to save and leave. The launcher's own way is to die of them at once, or to give
the ranks 30 seconds and no more; here they go on to the ranks, which answer with exit code 75, and so does this. The
launcher's own processes have these signals blocked, so that one that is sent to the whole process group, or by Slurm to
every process, ends none of them; the ranks inherit that, and take them in a way of their own (dstrain/guard/bell.py).
Ctrl-C reaches the ranks by itself: they end, then so does the launcher, without a traceback. What the launcher itself
has to complain of is a line, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import types

import leash  # beside this file

REQUESTS = (signal.SIGTERM, signal.SIGUSR1,  # and a closed terminal, unless that is ignored, as by nohup
            *(() if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)))
USERS_MISTAKE, LEFT, INTERRUPTED = 2, 75, 130
LOOK_S = 0.2


def main() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)  # before anything else: threads and processes inherit it
    if "--no_ssh" in sys.argv and {"SLURM_STEP_ID", "SLURM_STEPID"} & set(os.environ):
        leash.end_with_parent(signal.SIGTERM, os.getppid())  # Slurm's daemon of this step; it goes on to the ranks
    came: list[int] = []
    # A handler, not SIG_IGN: programs that are started from here get Ctrl-C as usual.
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    threading.Thread(target=pass_requests_on, args=(came,), daemon=True).start()
    from deepspeed.launcher import runner  # takes seconds

    import over_ssh

    runner.PDSHRunner = over_ssh.OverSsh
    runner.signal = NotedSignals(came)
    runner.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": Started})
    try:
        code = LEFT if came else runner.main()
    except SystemExit as end:
        code = end.code
    except (RuntimeError, ValueError, AssertionError) as error:  # the hostfile, or a node that ssh does not reach
        print(f"deepspeed: {error}", file=sys.stderr)
        code = USERS_MISTAKE
    finally:
        over_ssh.remove_environment_file()
    if signal.SIGINT in came and code:
        print("stopped by Ctrl-C; the same command goes on from the last checkpoint, or else from the start",
              file=sys.stderr)
        return INTERRUPTED
    if not code and Started.newest is not None and Started.newest.returncode < 0:
        print(f"the launcher's own process was killed (signal {-Started.newest.returncode}): its ranks save and leave",
              file=sys.stderr)
        return 1
    return (code or 0) if code in (None, 0, 1, USERS_MISTAKE, LEFT) else 1  # the signal that killed a rank


class Started(subprocess.Popen):
    """What the launcher starts; of one that is killed it says nothing, and ends with 0."""

    newest: Started | None = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        Started.newest = self


class NotedSignals:
    """Stands in for the module `signal` in the launcher, which hears of Ctrl-C where it runs pdsh: it is noted here."""

    SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM

    def __init__(self, came: list[int]):
        self._came = came

    def signal(self, number: int, handler) -> None:
        def noted(number: int, frame) -> None:
            self._came.append(number)
            handler(number, frame)
        signal.signal(number, noted)


def pass_requests_on(came: list[int]) -> None:
    """Every request to every rank that there is, the last one to those that start later, too."""
    import psutil

    number, told = signal.sigwait(REQUESTS), set()
    while True:
        if number not in came:
            came.append(number)
        over_ssh = sys.modules.get("over_ssh")
        if over_ssh is not None and over_ssh.OverSsh.nodes:
            if not told and over_ssh.OverSsh.ask_ranks(number):
                told.add("the nodes")
        else:
            for rank in ranks(psutil):
                if rank.pid not in told:
                    told.add(rank.pid)
                    with contextlib.suppress(psutil.NoSuchProcess):
                        rank.send_signal(number)
        again = signal.sigtimedwait(REQUESTS, LOOK_S)
        if again is not None:
            number, told = again.si_signo, set()


def ranks(psutil) -> list:
    """What this process's children have started: the launcher of this node is the one child."""
    try:
        return [rank for launcher in psutil.Process().children() for rank in launcher.children()]
    except psutil.NoSuchProcess:
        return []  # it has ended meanwhile


if __name__ == "__main__":
    sys.exit(main())

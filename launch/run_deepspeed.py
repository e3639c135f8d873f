"""The deepspeed launcher, as its own command starts it, but for what becomes of signals and of exit codes.

SIGTERM and SIGUSR1 ask a run to save and leave. The launcher's own way is to die of them at once, or to give the ranks
30 seconds and no more; here they go on to the ranks, which answer with exit code 75, and this ends with that, too. The
launcher's own processes have both signals blocked, so that one that is sent to the whole process group, or by Slurm to
every process, ends none of them; the ranks inherit that, and take them in a way of their own (dstrain/guard/bell.py).
Ctrl-C reaches the ranks by itself: they end, then so does the launcher, without a traceback.
"""

import contextlib
import signal
import sys
import threading

REQUESTS = (signal.SIGTERM, signal.SIGUSR1)
LEFT, INTERRUPTED = 75, 130
LOOK_S = 0.2


def main() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)  # before anything else: threads and processes inherit it
    came: list[int] = []
    # A handler, not SIG_IGN: programs that are started from here get Ctrl-C as usual.
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    threading.Thread(target=pass_requests_on, args=(came,), daemon=True).start()
    from deepspeed.launcher.runner import main as runner  # takes seconds
    try:
        code = LEFT if came else runner()
    except SystemExit as end:
        code = end.code
    if signal.SIGINT in came and code:
        print("stopped by Ctrl-C; the same command goes on from the last checkpoint, or else from the start",
              file=sys.stderr)
        return INTERRUPTED
    return (code or 0) if code in (None, 0, 1, 2, LEFT) else 1  # a rank that was killed: its signal's number


def pass_requests_on(came: list[int]) -> None:
    """Every request to every rank that there is, the last one to those that start later, too."""
    import psutil

    number, told = signal.sigwait(REQUESTS), set()
    while True:
        if number not in came:
            came.append(number)
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

"""Says that something is waited for, when it takes longer than anybody would expect."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from dstrain.guard.observer import say

FIRST_S, AGAIN_S = 15.0, 180.0


@contextlib.contextmanager
def meeting_others() -> Iterator[None]:
    """Around the ranks' rendezvous, which says nothing by itself: one that never comes is waited for up to 30 minutes.

    The first rank of each node says it, so that the node where it is said by nobody is found, too.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    over = threading.Event()
    if world > 1 and os.environ.get("LOCAL_RANK", "0") == "0":
        threading.Thread(target=_say_at_times, args=(over, world), daemon=True, name="patience").start()
    try:
        yield
    finally:
        over.set()


def _say_at_times(over: threading.Event, world: int) -> None:
    began, wait_s = time.monotonic(), FIRST_S
    where = f"{os.environ.get('MASTER_ADDR', '127.0.0.1')}:{os.environ.get('MASTER_PORT', '?')}"
    while not over.wait(wait_s):
        waited_s = time.monotonic() - began
        waited = f"{waited_s:.0f} s" if waited_s < 90 else f"{waited_s / 60:.0f} minutes"
        say(f"dstrain: rank {os.environ.get('RANK', '0')}: waiting for the other ranks ({world} in all, they meet at "
            f"{where}) for {waited}: one may not have been started, may have ended, or cannot reach that address")
        wait_s = AGAIN_S

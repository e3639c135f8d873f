"""Found on PYTHONPATH by every Python of a job: in its first start each step of the training takes a while midway.

Long enough to be hit in mid-run, at no cost of CPU. DSTRAIN_SLOWLY says how many seconds; a start after a requeue is
as fast as ever. Only inside a job: there PYTHONPATH says whose dstrain it is.
"""

import os
import time

if {"DSTRAIN_SLOWLY", "SLURM_JOB_ID"} <= set(os.environ) and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    try:
        from dstrain.guard.pulse import SharedPulse
    except ImportError:  # a Python of the job's that is none of ours
        SharedPulse = None

    def install(seconds: float) -> None:
        inner = SharedPulse.enter

        def enter(self: object, phase: str, detail: str = "") -> None:
            inner(self, phase, detail)
            if (phase, detail) == ("step", "update"):
                time.sleep(seconds)

        SharedPulse.enter = enter

    if SharedPulse is not None:
        install(float(os.environ["DSTRAIN_SLOWLY"]))

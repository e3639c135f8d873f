"""DeepSpeed's running commentary, reduced to warnings: a user should see what matters to the run."""

from __future__ import annotations

import logging
import warnings

from deepspeed.runtime import bf16_optimizer


def quieten_deepspeed() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Warns that Muon is none of its own optimizers: meant so, and tested at each stage (tests/dist/test_muon.py).
    logging.getLogger("DeepSpeed").addFilter(lambda record: "untested optimizer" not in record.getMessage())
    # Prints the memory in use four times at every start of ZeRO-1 in bf16.
    bf16_optimizer.see_memory_usage = lambda message, force=False: None
    # DeepSpeed calls torch functions that later releases will drop; a user can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning,
                            message=r".*(torch\.distributed|all_gather|reduce_scatter).*")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed\..*")

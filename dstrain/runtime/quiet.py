"""DeepSpeed's running commentary, reduced to warnings: a user should see what matters to the run."""

from __future__ import annotations

import logging
import warnings


def quieten_deepspeed() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed\..*")

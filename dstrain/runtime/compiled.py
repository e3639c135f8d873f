"""torch.compile of the trainee, with what was compiled kept for the next start of the same recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from dstrain.config.errors import UserError
from dstrain.runtime.dist import Ranks

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled(ranks: Ranks) -> None:
    """Call it before DeepSpeed is initialized: that compiles a function, and so fixes the folder."""
    with ranks.together("compiling"):
        _keep_in(kept_folder())
    # In the middle of a run, too: a new shape is compiled when it comes.
    torch._dynamo.callback.callback_handler.register_start_callback(
        lambda _: ranks.pulse.takes_long("compiling"))


def compile_trainee(engine: Any) -> None:
    """Compile the module in a DeepSpeed engine: at its first batches, in training and in validation."""
    # At stage 3 DeepSpeed's hooks stand between the layers. They would be compiled too, once for each kind and place
    # of a layer, until torch gives up with a warning.
    torch._dynamo.trace_rules.add("deepspeed")
    engine.compile()


def kept_folder() -> Path:
    """Where TORCHINDUCTOR_CACHE_DIR says, or ~/.cache/dstrain/compiled (under XDG_CACHE_HOME where that is set)."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    said = os.environ.get(FOLDER)
    if said and said != default_cache_dir():  # torch itself may have written its default, which a restart empties
        return Path(said)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dstrain" / "compiled"


def _keep_in(folder: Path) -> None:
    """Torch looks at the variable each time it compiles. Ranks may share the folder: torch locks what it writes."""
    probe = folder / f".writable_{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"engine.compile is on, but {folder}, where what is compiled is kept, cannot be written: "
                        f"{error.strerror}; set {FOLDER} to another folder") from error
    os.environ[FOLDER] = str(folder)

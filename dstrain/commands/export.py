"""`dstrain export`: a run's model for other software."""

from __future__ import annotations

from pathlib import Path

from dstrain.commands.use import read_checkpoint


def export_command(run: Path, which: str, out: Path) -> None:
    from dstrain.export.hf import export_hf, refuse_what_is_there  # torch takes its time

    refuse_what_is_there(out)
    read_checkpoint(run, which, lambda checkpoint: export_hf(checkpoint, out, print))

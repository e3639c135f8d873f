"""Where a run's records go: metrics.jsonl, ledger.jsonl, TensorBoard. Only the first rank has them."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from dstrain.train.run_folder import RunFolder


class Sinks:
    """Open files of a run, from step `start` on."""

    def __init__(self, folder: RunFolder, start: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only the first rank needs it
        self._metrics = open(folder.metrics, "a", buffering=1)
        self._ledger = open(folder.ledger, "a", buffering=1)
        self.board = SummaryWriter(str(folder.tensorboard), purge_step=start + 1, flush_secs=10)

    def write_steps(self, records: list[dict], ledger: list[dict], extra: dict[str, float]) -> None:
        """One line a step in both files; TensorBoard gets every step too, and `extra` at the last of them."""
        self._metrics.write("".join(map(_line, records)))
        self._ledger.write("".join(map(_line, ledger)))
        for record in records:
            step = record["step"]
            for tag, key in (("train/loss", "loss"), ("train/lr", "lr"), ("train/grad_norm", "grad_norm"),
                             ("perf/tokens_per_s", "tokens_per_s"), ("data/wait", "data_wait"),
                             ("train/loss_scale", "loss_scale"), ("train/lr_muon", "lr_muon")):
                if record.get(key) is not None and math.isfinite(record[key]):
                    self.board.add_scalar(tag, record[key], step)
            if len(record["terms"]) > 1:
                for number, loss in enumerate(record["terms"].values(), start=1):
                    self.board.add_scalar(f"heads/{number}/loss", loss, step)
            if record["skipped"]:
                self.board.add_scalar("train/skipped", 1, step)
        self.write_scalars(extra, records[-1]["step"])

    def write_scalars(self, values: dict[str, float], step: int) -> None:
        """For TensorBoard alone."""
        for tag, value in values.items():
            self.board.add_scalar(tag, value, step)

    def write_scores(self, step: int, split: str, scores: dict) -> None:
        self._metrics.write(_line({"step": step, "split": split, **scores}))
        for key, value in scores.items():
            if isinstance(value, (int, float)):
                self.board.add_scalar(f"{split}/{key}", value, step)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Shown by TensorBoard as it stands: indented, so that nothing in it is taken for markup."""
        self.board.add_text(tag, "\n".join("    " + line for line in text.split("\n")), step)

    def sync(self) -> None:
        """Everything that was written is on the disk when this returns."""
        for file in (self._metrics, self._ledger):
            file.flush()
            os.fsync(file.fileno())
        self.board.flush()

    def close(self) -> None:
        self._metrics.close(), self._ledger.close(), self.board.close()


def _line(record: dict) -> str:
    """One line of JSON; NaN and Inf, which JSON lacks, become null."""
    return json.dumps({key: _finite(value) for key, value in record.items()}, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class NoSinks:
    """What the other ranks have."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None

"""What a run prints: a line that is redrawn on a terminal, plain lines in a log file."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from dstrain.train.run_folder import RunFolder


WAIT_WORTH_SAYING = 0.05
"""share of the time spent waiting for data: above it, more data.workers or `dstrain prepare` would make a run faster"""
GENERATED = (("bleu", "BLEU", 2), ("chrf", "chrF", 2), ("exact", "exact", 4),
             ("grid_accuracy", "whole grids", 4), ("grid_accuracy_2", "in two attempts", 4),
             ("cell_accuracy", "cells", 4), ("copy_baseline", "by copying", 4))
"""scores of what a model generates: key, name, digits"""


class Progress:
    """Prints for the first rank; says nothing on the others."""

    def __init__(self, steps: int, shown: bool):
        self.steps, self.shown = steps, shown
        self._on_terminal = shown and sys.stdout.isatty()
        self._bar = ""
        self._first: tuple[int, float] | None = None
        self._signatures: dict[str, str] = {}

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.shown:
            self._clear()
            self._print(line + "\n")
            self._draw()

    def step(self, record: dict[str, Any], data_wait_share: float) -> None:
        if not self.shown:
            return
        line = (f"step {record['step']:>{len(str(self.steps))}}/{self.steps}  loss {record['loss']:.4f}  "
                f"lr {record['lr']:.2e}  {record['tokens_per_s']:,.0f} tokens/s  {self._time_left(record['step'])}")
        if data_wait_share > WAIT_WORTH_SAYING:
            line += f"  waits for data {100 * data_wait_share:.0f} % of the time"
        if record["skipped"]:
            line += "  SKIPPED (NaN or Inf)"
        if not self._on_terminal:
            self._print(line + "\n")
            return
        done = int(24 * record["step"] / self.steps)
        self._bar = f"[{'#' * done}{'.' * (24 - done)}] {line}"
        self._clear()
        self._draw()

    def scores(self, step: int, scores: dict, is_best: bool) -> None:
        # Of several terms the loss is their weighted sum; perplexity and bits are of the next token alone.
        next_token = f" (next token {scores['terms']['next']:.4f})" if "next" in scores.get("terms", {}) else ""
        shown = [f"loss {scores['loss']:.4f}{next_token}", f"perplexity {scores['perplexity']:.2f}"]
        shown += [f"{scores['bits_per_byte']:.4f} bits a byte"] if "bits_per_byte" in scores else []
        shown += [f"{name} {scores[key]:.{digits}f}" for key, name, digits in GENERATED if key in scores]
        self.say(f"valid at step {step}: " + ", ".join(shown) + (" (best so far)" if is_best else ""))
        signatures = {name: scores[f"{key}_signature"] for key, name, _ in GENERATED if f"{key}_signature" in scores}
        if signatures != self._signatures:  # once: they say how all of the run's scores were made
            self._signatures = signatures
            self.say("  scored by " + "; ".join(f"{name} {signature}" for name, signature in signatures.items()))

    def finish(self, state: Any, folder: RunFolder, early: bool) -> None:
        self._clear()
        self._bar = ""
        if early:
            self.say(state.why_early() + (f", kept in {folder.checkpoints / 'best'}" if state.best_step else ""))
        self.say(f"done: {state.step} steps, {state.tokens:,} targets scored" +
                 (f", {state.skipped} steps skipped" if state.skipped else ""))
        self.say(f"run folder: {folder.path}\nwatch it:   tensorboard --logdir {folder.tensorboard}")

    def _time_left(self, step: int) -> str:
        now = time.perf_counter()
        if self._first is None:
            self._first = (step, now)
            return "time left: measuring"
        first, since = self._first
        return f"{duration((now - since) / (step - first) * (self.steps - step))} left"

    def _print(self, text: str) -> None:
        """When the reader of our output has left (as with `| head`), the training goes on without a word."""
        try:
            print(text, end="", flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.shown = self._on_terminal = False

    def _clear(self) -> None:
        if self._on_terminal and self._bar:
            self._print("\r\x1b[2K")

    def _draw(self) -> None:
        if self._on_terminal and self._bar:
            self._print(self._bar)


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"

"""`dstrain prepare`: what a user sees of it, and how to train from what it wrote."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from dstrain.config.arc import PuzzleData
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.config.translate import PairData
from dstrain.data.preparing.prepare import prepare
from dstrain.data.preparing.prepared import PreparedFolder
from dstrain.data.preparing.shards import Shard
from dstrain.train.progress import duration

REDRAW_S, LOG_S = 0.2, 10.0
BAR = 24


def prepare_command(name: str, overrides: list[str], out: str | None) -> int:
    recipe = load_recipe(name, overrides)
    if isinstance(recipe.data, PairData):
        raise UserError(f"{name}: pairs of sentences have no shards, they are read as they are: for nodes without a "
                        f"network copy the files to a folder that all see and set data.folder, or fetch a hub dataset "
                        f"with `hf download NAME --repo-type dataset`")
    if isinstance(recipe.data, PuzzleData):
        raise UserError(f"{name}: puzzles have no shards, they are read as they are: for nodes without a network copy "
                        f"the files to a folder that all see and set data.folder")
    folder = Path(out or recipe.data.prepared or Path("prepared", recipe.run.name))
    looking = Looking()
    try:
        found = prepare(recipe, folder, looking)
    except KeyboardInterrupt:
        looking.say("dstrain: stopped by Ctrl-C; the same command goes on after the last whole shard")
        return 130
    finally:
        looking.end()
    print("\n".join(_summary(found)))
    given = [name, *(override for override in overrides if not override.startswith("data.prepared=")),
             f"data.prepared={folder}"]
    print(f"train from it, with neither text nor network:  dstrain train {shlex.join(given)}")
    return 0


def _summary(folder: PreparedFolder) -> list[str]:
    lines = []
    for corpus in folder.corpora():
        shards = corpus.shards
        malformed = sum(len(shard.malformed) for shard in shards)
        lines.append(f"{corpus.name}: {sum(shard.tokens for shard in shards):,} tokens in "
                     f"{sum(shard.rows for shard in shards):,} documents, {len(shards)} shard(s), "
                     f"{sum(shard.path.stat().st_size for shard in shards) / 2**20:,.1f} MiB" +
                     (f"; {malformed:,} malformed" if malformed else ""))
    return lines


class Looking:
    """A line that is redrawn on a terminal, a line every few seconds in a log."""

    def __init__(self):
        self._on_terminal = sys.stdout.isatty()
        self._bar = self._name = ""
        self._total: int | None = None
        self._kept = self._read = self._tokens = self._documents = 0
        self._began = self._shown = time.monotonic()

    def say(self, line: str) -> None:
        self._clear()
        print(line, flush=True)

    def begin(self, name: str, total_bytes: int | None) -> None:
        self.end()
        self._name, self._total = name, total_bytes
        self._kept = self._read = self._tokens = self._documents = 0
        self._began = self._shown = time.monotonic()

    def checked(self, shard: Shard) -> None:
        """A shard that was there and whole."""
        self._kept += shard.sums["read_bytes"]
        self._began = time.monotonic()
        self._show_if_due("whole already: ")

    def advance(self, read_bytes: int, tokens: int, documents: int) -> None:
        self._read += read_bytes
        self._tokens += tokens
        self._documents += documents
        self._show_if_due("")

    def end(self) -> None:
        self._clear()

    def _show_if_due(self, what: str) -> None:
        now = time.monotonic()
        if now - self._shown < (REDRAW_S if self._on_terminal else LOG_S):
            return
        self._shown = now
        line = f"{self._name}: {what}{self._state(max(now - self._began, 1e-3))}"
        if not self._on_terminal:
            print(line, flush=True)
            return
        self._clear()
        done = int(BAR * self._share()) if self._total else 0
        self._bar = f"[{'#' * done}{'.' * (BAR - done)}] {line}" if self._total else line
        print(self._bar, end="", flush=True)

    def _state(self, took_s: float) -> str:
        rate = f"{self._tokens:,} tokens, {self._tokens / took_s:,.0f} tokens/s"
        if not self._total:
            return f"{self._documents:,} documents, {rate}"
        share = self._share()
        left = (self._total - self._kept - self._read) / (self._read / took_s) if self._read else None
        return f"{100 * share:.0f} %, {rate}" + (f", {duration(max(0.0, left))} left" if left is not None else "")

    def _share(self) -> float:
        """Of the text. What paragraphs' blank lines take is never read as text, so it ends a little below 1."""
        return min(1.0, (self._kept + self._read) / self._total)

    def _clear(self) -> None:
        if self._bar:
            print("\r\x1b[2K", end="", flush=True)
            self._bar = ""


"""Where a run's records go: metrics.jsonl, ledger.jsonl, TensorBoard. Only the first rank has them."""

from __future__ import annotations

import functools
import json
import math
import re
from typing import TYPE_CHECKING, Any, Callable

from dstrain.config.errors import Trouble, UserError
from dstrain.config.os_errors import in_one_line
from dstrain.train.appended import Appended
from dstrain.train.run_folder import Footing, RunFolder
from dstrain.train.shown import Shown

if TYPE_CHECKING:
    from dstrain.train.event_file import EventFile


HEAD = re.compile(r"next(\d*)")
"""terms that are a prediction head's: next, next2 ..."""


def _first_error_is_kept(write: Callable[..., None]) -> Callable[..., None]:
    """What was added to the board goes out with it; after an error nothing does."""
    @functools.wraps(write)
    def guarded(self: Sinks, *arguments: Any, **named: Any) -> None:
        if self.error is not None:
            return
        try:
            self._footing.check()
            if self._open_again_what_was_removed():
                self._footing.check()  # a later start, too, puts others in the place of what it finds
            write(self, *arguments, **named)
            self._board.write_out()
        except Trouble as trouble:
            self.error = trouble
        except OSError as error:
            self.error = in_one_line(error, "write", error.filename or "the run's records")
            self.error.__cause__ = error  # which tells the black box that the disk was full
    return guarded


class Sinks:
    """Open files of a run, from step `start` on.

    A file that cannot be written is no reason to leave the other ranks alone in the middle of a step: the first error
    is kept in `error`, nothing more is written, and the trainer lets all ranks end together after the step. So it is
    where the run folder itself is gone. A file of it that was removed, or replaced by an editor, is opened again.
    """

    def __init__(self, folder: RunFolder, start: int, say: Callable[[str], None], footing: Footing | None = None):
        self.error: Trouble | UserError | None = None
        self._folder, self._step, self._say = folder, start, say
        self._footing = footing or Footing(folder)
        self._metrics, self._ledger = Appended(folder.metrics), Appended(folder.ledger)
        self._board = self._new_board()

    @property
    def _files(self) -> tuple[Appended, Appended, EventFile]:
        return self._metrics, self._ledger, self._board

    @_first_error_is_kept
    def write_steps(self, records: list[dict], ledger: list[dict], extra: dict[str, float]) -> None:
        """One line a step in both files; TensorBoard gets every step too, and `extra` at the last of them."""
        self._metrics.append(_lines(records))
        self._ledger.append(_lines(ledger))
        for record in records:
            self._show(record)
        self._show_scalars(extra, records[-1]["step"])

    @_first_error_is_kept
    def write_scalars(self, values: dict[str, float], step: int) -> None:
        """For TensorBoard alone."""
        self._show_scalars(values, step)

    @_first_error_is_kept
    def write_scores(self, step: int, split: str, scores: dict) -> None:
        # A list is a long table, for `dstrain eval` alone.
        self._metrics.append(_lines([{"step": step, "split": split, **{
            key: value for key, value in scores.items() if not isinstance(value, list)}}]))
        self._show_scalars({f"{split}/{key}": value for key, value in scores.items()
                            if isinstance(value, (int, float))}, step)
        self._show_scalars(_term_tags(scores.get("terms", {}), f"{split}_loss"), step)
        self._show_scalars({f"heads/{number}/{name}": value for number, head in scores.get("heads", {}).items()
                            for name, value in head.items()}, step)
        self._show_scalars({f"{split}_{name}/{category}": value for category, of_one in scores.get(
            "by_category", {}).items() for name, value in of_one.items() if isinstance(value, float)}, step)

    @_first_error_is_kept
    def write_shown(self, shown: Shown, step: int, with_pictures: bool) -> None:
        """For TensorBoard alone."""
        self._show_scalars(shown.scalars, step)
        for tag, values in shown.spreads.items():
            if all(map(math.isfinite, values)):
                self._board.add_spread(tag, values, step)
        for tag, picture in shown.pictures.items() if with_pictures else ():
            self._board.add_picture(tag, picture, step)

    @_first_error_is_kept
    def write_text(self, tag: str, text: str, step: int) -> None:
        """Shown by TensorBoard as it stands: indented, so that nothing in it is taken for markup."""
        self._board.add_text(tag, "\n".join("    " + line for line in text.split("\n")), step)

    @_first_error_is_kept
    def sync(self) -> None:
        """Everything that was written is on the disk when this returns, unless there is an `error`."""
        for file in self._files:
            file.sync()

    def look(self) -> None:
        """With each step: a later start that wants the folder becomes an `error`, too."""
        if self.error is None:
            try:
                self._footing.look()
            except Trouble as trouble:
                self.error = trouble

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _new_board(self) -> EventFile:
        from dstrain.train.event_file import EventFile  # slow to import, and only the first rank needs it
        return EventFile(self._folder.tensorboard, self._step)

    def _open_again_what_was_removed(self) -> bool:
        gone = [file for file in self._files if file.is_gone()]
        for file in gone:
            self._say(f"{file.path} was removed, moved or replaced while the run wrote to it: what comes from here on "
                      "is written to a new one, or to what stands there now")
            file.close()
            if file is self._metrics:
                self._metrics = Appended(file.path)
            elif file is self._ledger:
                self._ledger = Appended(file.path)
            else:
                self._board = self._new_board()
        return bool(gone)

    def _show(self, record: dict) -> None:
        step = record["step"]
        self._step = max(self._step, step)
        for tag, key in (("train/loss", "loss"), ("train/lr", "lr"), ("train/grad_norm", "grad_norm"),
                         ("perf/tokens_per_s", "tokens_per_s"), ("data/wait", "data_wait"),
                         ("train/loss_scale", "loss_scale"), ("train/lr_muon", "lr_muon")):
            if record.get(key) is not None and math.isfinite(record[key]):
                self._board.add_scalar(tag, record[key], step)
        self._show_scalars(_term_tags(record["terms"], "loss"), step)
        if record["skipped"]:
            self._board.add_scalar("train/skipped", 1, step)

    def _show_scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(tag, value, step)


class NoSinks:
    """What the other ranks have."""

    error = None

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def _term_tags(terms: dict[str, float], kind: str) -> dict[str, float]:
    """heads/2/loss of the second head where there are several, terms/balance/loss of what is no head's."""
    heads = {term: found[1] or "1" for term in terms if (found := HEAD.fullmatch(term))}
    tags = {term: f"heads/{heads[term]}/{kind}" if term in heads else f"terms/{term}/{kind}" for term in terms}
    return {tags[term]: loss for term, loss in terms.items() if term not in heads or len(heads) > 1}


def _lines(records: list[dict]) -> bytes:
    """A line of JSON each; NaN and Inf, which JSON lacks, become null."""
    return b"".join(json.dumps({key: _finite(value) for key, value in record.items()}, allow_nan=False).encode()
                    + b"\n" for record in records)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

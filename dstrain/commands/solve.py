"""`dstrain solve`: the queries of puzzles in files, answered by a trained model, in ARC's submission form."""

from __future__ import annotations

import glob
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dstrain.commands.use import Trained, load_trained
from dstrain.config.errors import UserError
from dstrain.config.os_errors import in_words

TASKS_A_BLOCK = 16
"""so many are answered together"""
NO_ANSWER = [[0]]
"""what stands in the submission where there is none: a grid it must be"""
VIEWS, MOST_VIEWS = 8, 64
ADAPTER_RANK, ADAPT_LR = 8, 1e-3
_CLEAR = "\r\x1b[2K"


def solve_command(run: Path, which: str, pattern: str, out: Path, views: int | None, pictures: Path | None,
                  adapt: int | None, rank: int | None, lr: float | None) -> int:
    """`adapt`: steps of test-time training, with adapters of that rank at that learning rate; None: none."""
    done = None
    try:
        if views is not None and not 1 <= views <= MOST_VIEWS:
            raise UserError(f"--views {views}: must be from 1 to {MOST_VIEWS}")
        _refuse_adapting(adapt, rank, lr)
        tasks = tasks_of(pattern, out)
        _refuse_places(out, pictures)
        trained = load_trained(run, which, "solve")
        how = None if adapt is None else _adapting(trained, adapt, rank, lr)
        views = _views(trained, views, how is not None)
        done = _Done(tasks, sys.stderr.isatty())
        at_once = TASKS_A_BLOCK if how is None else 1
        for first in range(0, len(tasks), at_once):
            block = tasks[first:first + at_once]
            began = time.perf_counter()
            found = _answered(trained, block, views) if how is None else [
                _answered_adapted(trained, block[0], views, how, done.adapted)]
            done.add(block, found, time.perf_counter() - began)
            if pictures is not None:
                _draw(block, found, pictures)
        replaced = out.exists()
        _write(out, submission(tasks, done.found))
    except KeyboardInterrupt:
        after = ""
        if done is not None:
            done.clear()
            after = f" after {done.count:,} of {len(tasks):,} tasks; {out} is not written"
        print(f"\ndstrain: stopped by Ctrl-C{after}", file=sys.stderr)
        return 130
    finally:
        if done is not None:
            done.clear()
    print("\n".join([f"{out}: {'written anew' if replaced else 'written'}", *done.scores_in_words()]))
    print(done.summary(), file=sys.stderr)
    return 0


def tasks_of(pattern: str, out: Path) -> list:
    """Of a folder all of its .json files. `out` must be none of them: its next reader would take it for a task."""
    from dstrain.config.arc import PuzzleSource
    from dstrain.config.source_files import puzzle_files
    from dstrain.data.grids.reading import tasks_in

    folder = Path(pattern).expanduser()
    is_folder = folder.is_dir()
    if is_folder and not any(folder.glob("*.json")):
        raise UserError(f"--tasks {pattern}: the folder holds no .json file; name the one that holds the tasks")
    source = PuzzleSource(path=os.path.join(glob.escape(str(folder)), "*.json") if is_folder else pattern)
    try:
        files = puzzle_files(source, "--tasks")
    except UserError as mistake:
        raise UserError(str(mistake).replace("--tasks.path", "--tasks")) from None
    read = {path.resolve() for paths in files for path in paths}
    if out.resolve() in read or is_folder and out.resolve().parent == folder.resolve():
        raise UserError(f"--out {out}: it stands where --tasks {pattern} reads, and would be taken for a task; choose "
                        "another place")
    return tasks_in(files)


def submission(tasks: Sequence[Any], found: dict[str, list]) -> dict[str, list[dict[str, list]]]:
    """{"TASK": [{"attempt_1": rows, "attempt_2": rows}, one for each query], ...}. Where there is one answer, it
    stands twice."""
    def rows(verdict: Any, number: int) -> list[list[int]]:
        attempts = verdict.attempts
        return attempts[min(number, len(attempts) - 1)].grid.tolist() if attempts else NO_ANSWER

    return {task.name: [{"attempt_1": rows(verdict, 0), "attempt_2": rows(verdict, 1)}
                        for verdict in found[task.name]] for task in tasks}


def _answered(trained: Trained, tasks: Sequence[Any], views: int) -> list[list]:
    """Of each task the verdict on each of its queries."""
    from dstrain.data.grids.corpus import Question
    from dstrain.infer.grid_voting import answer_questions

    questions = [Question(task, query) for task in tasks for query in task.queries]
    verdicts = iter(answer_questions(trained.trainee.model, questions, trained.recipe, views))
    return [[next(verdicts) for _ in task.queries] for task in tasks]


def _answered_adapted(trained: Trained, task: Any, views: int, how: Any, adapted_to: dict) -> list:
    """The same of one task, by a model that has learned its demonstrations; what came of that is noted by its name."""
    from dstrain.infer.adapting import adapted

    model, recipe = trained.trainee.model, trained.recipe
    with adapted(model, task, recipe.data, recipe.model.kind, recipe.batch.length, how) as adapted_to[task.name]:
        return _answered(trained, [task], views)[0]


def _refuse_adapting(steps: int | None, rank: int | None, lr: float | None) -> None:
    given = {"--adapter-rank": rank, "--adapt-lr": lr}
    for name, value in given.items():
        if value is not None and steps is None:
            raise UserError(f"{name} {value}: there is nothing to adapt without --adapt; add --adapt STEPS")
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} {value}: must be above 0")
    if steps is not None and steps < 1:
        raise UserError(f"--adapt {steps}: must be at least 1; leave it out to answer without adapters")


def _adapting(trained: Trained, steps: int, rank: int | None, lr: float | None) -> Any:
    from dstrain.infer.adapting import Adapting

    return Adapting(steps, ADAPTER_RANK if rank is None else rank, ADAPT_LR if lr is None else lr,
                    seed=trained.recipe.run.seed)


def _views(trained: Trained, views: int | None, adapts: bool) -> int:
    from dstrain.data.grids.row import ENCODER_DECODER

    alone = adapts and trained.recipe.model.kind == ENCODER_DECODER
    if alone and views not in (None, 1):
        raise UserError(f"--views {views}: an encoder-decoder learns each task with --adapt as it is, and in no other "
                        f"view; leave --views out")
    return (1 if alone else VIEWS) if views is None else views


def _draw(tasks: Sequence[Any], found: Sequence[list], folder: Path) -> None:
    from dstrain.train.grid_picture import Asked, puzzle_picture
    from dstrain.train.picture import png

    for task, verdicts in zip(tasks, found, strict=True):
        asked = [Asked(query, [candidate.grid for candidate in verdict.attempts])
                 for query, verdict in zip(task.queries, verdicts, strict=True)]
        path = folder / f"{file_name(task.name)}.png"
        with in_words("write the picture", path, "--pictures"):
            path.write_bytes(png(puzzle_picture(task.demonstrations, asked))[0])


def file_name(task: str) -> str:
    """A task may be called anything: what no file name can hold is replaced."""
    name = "".join(letter if letter.isprintable() and letter not in '/\\:*?"<>|' else "_" for letter in task)
    return (name.lstrip(".") or "_")[:100]


def _refuse_places(out: Path, pictures: Path | None) -> None:
    """Before the long work."""
    if out.is_dir():
        raise UserError(f"--out {out}: that is a folder; name a file in it")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it, or choose another place")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: {out.parent} cannot be written to; choose another place")
    if pictures is not None:
        with in_words("make the folder", pictures, "--pictures"):
            pictures.mkdir(parents=True, exist_ok=True)


def _write(path: Path, value: Any) -> None:
    """In one step: killed, or on a full disk, what was there stays."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with in_words("write", path, "--out"):
        try:
            with open(beside, "w", encoding="utf-8") as file:
                json.dump(value, file)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


class _Done:
    """What has been answered so far, and how it is said."""

    def __init__(self, tasks: Sequence[Any], draws: bool):
        self.found: dict[str, list] = {}
        self.adapted: dict[str, Any] = {}
        self.seconds = 0.0
        self._tasks, self._draws, self._drawn = tasks, draws, False

    @property
    def count(self) -> int:
        return len(self.found)

    def add(self, tasks: Sequence[Any], found: Sequence[list], seconds: float) -> None:
        self.found |= {task.name: verdicts for task, verdicts in zip(tasks, found, strict=True)}
        self.seconds += seconds
        self.clear()
        if self._draws:
            left = self.seconds / self.count * (len(self._tasks) - self.count)
            print(f"{self.count:,} of {len(self._tasks):,} tasks, {left:,.0f} s left", end="", file=sys.stderr,
                  flush=True)
            self._drawn = True

    def clear(self) -> None:
        if self._drawn:
            print(_CLEAR, end="", file=sys.stderr, flush=True)
            self._drawn = False

    def scores_in_words(self) -> list[str]:
        """Over the queries whose answers are known."""
        from dstrain.infer.grid_scores import scores_of
        from dstrain.infer.grid_tables import in_words as tables

        known = [(question, verdict) for question, verdict in self._all() if question.query.output is not None]
        if not known:
            return []
        scores = scores_of([question for question, _ in known], [verdict for _, verdict in known])
        shares = [f"  {name:<20}{value:.4f}" for name, value in scores.items() if isinstance(value, float)]
        return [f"{len(known):,} queries whose answers are known:", *shares, *tables(scores)]

    def summary(self) -> str:
        verdicts = [verdict for _, verdict in self._all()]
        tokens = sum(verdict.tokens for verdict in verdicts)
        views = max(verdict.views for verdict in verdicts)
        parts = [f"{_of(self.count, 'task')}, {_queries(len(verdicts))} in {_of(views, 'view')} each, {tokens:,} "
                 f"tokens in {self.seconds:.1f} s"]
        if self.adapted:
            parts += _adapted_in_words(self.adapted)
        if silent := sum(not verdict.attempts for verdict in verdicts):
            parts.append(f"{_queries(silent)} without an answer: a grid of one cell, 0, stands for it")
        if ties := sum(verdict.ties > 0 for verdict in verdicts):
            parts.append(f"{_queries(ties)} with a choice within rounding of another")
        return f"({'; '.join(parts)})"

    def _all(self) -> Iterator[tuple[Any, Any]]:
        from dstrain.data.grids.corpus import Question

        for task in self._tasks:
            for query, verdict in zip(task.queries, self.found[task.name], strict=True):
                yield Question(task, query), verdict


def _adapted_in_words(adapted: dict[str, Any]) -> list[str]:
    learned = [found for found in adapted.values() if found.why_not is None]
    said = [f"adapted to {_of(len(learned), 'task')}"]
    if learned:
        first, last = (sum(found.losses[place] for found in learned) / len(learned) for place in (0, -1))
        said[0] += f", mean loss {first:.3f} at the first step and {last:.3f} at the last"
    if left_out := sum(found.left_out for found in learned):
        said.append(f"{_of(left_out, 'row')} too long to be learned")
    reasons = [found.why_not for found in adapted.values() if found.why_not is not None]
    return [*said, *(f"{_of(reasons.count(reason), 'task')} answered without adapters: {reason}"
                     for reason in dict.fromkeys(reasons))]


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _queries(count: int) -> str:
    return f"{count:,} {'query' if count == 1 else 'queries'}"

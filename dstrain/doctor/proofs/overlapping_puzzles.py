"""No puzzle to validate on is one to train on: the audit of the feed, with many of the embedded ones that it skips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.audit import shared_with_training
from dstrain.data.grids.corpus import PuzzleCorpus
from dstrain.data.grids.sources import open_puzzles
from dstrain.data.grids.task import Task
from dstrain.doctor.finding import Finding

MOST_MADE = 2**14
"""of an embedded source's tasks, which are a million: they take some seconds"""


def of_puzzles(data: PuzzleData) -> Finding:
    train, valid = open_puzzles(data, "train"), open_puzzles(data, "valid")
    asked = {(corpus.number, question.task.name): question.task
             for corpus in valid for question in corpus.to_validate()}
    shared = shared_with_training(asked.values(), chain.from_iterable(map(_tasks, train)))
    example = f", such as {shared[0].valid.name}, which is {shared[0].train.name} there" if shared else ""
    return Finding(
        not shared, f"{len(shared):,} of {len(asked):,} tasks of data.valid are in data.train ({_looked_at(train)})"
        f"{example}", "none, in any of a square's 8 symmetries, in any colours, and whatever is shown of it or asked",
        "puzzles of the evaluation were trained on: answers to them are remembered, not found" if shared else "",
        "take them out of one side, or give both the same files with part: train and part: valid" if shared else "")


def _tasks(corpus: PuzzleCorpus) -> Iterator[Task]:
    """All of a file's; of embedded ones some from everywhere."""
    if corpus.file_count:
        return corpus.tasks()
    return (corpus.question(number).task for number in range(0, len(corpus), _step(corpus)))


def _looked_at(train: Sequence[PuzzleCorpus]) -> str:
    made = [corpus for corpus in train if not corpus.file_count]
    found = ["all that its files hold"] * (len(made) < len(train))
    found += [f"1 in {_step(corpus)} of {len(corpus):,} embedded ones" for corpus in made]
    return ", ".join(found)


def _step(corpus: PuzzleCorpus) -> int:
    return -(-len(corpus) // MOST_MADE)

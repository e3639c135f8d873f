"""No puzzle to validate on may be one to train on: turned, mirrored, recoloured or in another order, it is the same.

A task is found again where, in one symmetry, all its pairs are pairs of one training task: what is demonstrated there
and what is asked makes no difference. Two of them are enough where they are not small: a cell that becomes another
colour, or a frame that is filled, comes in many tasks by chance. So is the name enough where it is the same id of ARC:
pairs that a program has generated for a task share its rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from dstrain.config.errors import UserError
from dstrain.data.grids.canonical import cells_in, pair_form
from dstrain.data.grids.corpus import PuzzleCorpus
from dstrain.data.grids.task import Task
from dstrain.data.grids.views import SYMMETRIES

ARC_ID = re.compile(r"[0-9a-f]{8}")
ENOUGH, ENOUGH_CELLS = 2, 100
"""different pairs in common, and cells of them together, that no chance explains. No two of ARC's 400 training tasks
have so much as two pairs in common, and where they have one it has 27 cells at most"""
NAMED_AT_MOST = 5


class Shared(NamedTuple):
    valid: Task
    train: Task
    """in which it was found first"""


Seen = dict[bytes, set[tuple[int, int]]]
"""by a pair's form in which (validation task, symmetry) it comes"""


def check_apart(train: Sequence[PuzzleCorpus], valid: Sequence[PuzzleCorpus]) -> None:
    """A UserError where a puzzle stands on both sides. Of embedded ones to train on there are too many to look at:
    their parts are apart by how they are made."""
    from_files = [corpus for corpus in train if corpus.file_count]
    if not from_files:
        return
    to_validate = {(corpus.number, question.task.name): question.task
                   for corpus in valid for question in corpus.to_validate()}
    shared = shared_with_training(to_validate.values(), chain.from_iterable(c.tasks() for c in from_files))
    if shared:
        named = ", ".join(_in_words(one) for one in shared[:NAMED_AT_MOST])
        more = f" and {len(shared) - NAMED_AT_MOST:,} more" if len(shared) > NAMED_AT_MOST else ""
        raise UserError(f"data.valid: {len(shared):,} of {len(to_validate):,} task(s) to validate on stand in "
                        f"data.train, too, or a turned, mirrored or recoloured copy does: {named}{more}; take them "
                        f"out of one side, or give both the same files with part: train and part: valid")


def shared_with_training(valid: Iterable[Task], train: Iterable[Task]) -> list[Shared]:
    """The validation tasks that are training tasks, in their order; each once."""
    valid = list(valid)
    seen = _by_form(valid)
    by_name: dict[str, list[int]] = {}
    for number, task in enumerate(valid):
        if ARC_ID.fullmatch(task.name):
            by_name.setdefault(task.name, []).append(number)
    found: dict[int, Shared] = {}
    for task in train if valid else ():
        for number in (*_copies_of(task, seen, valid), *by_name.get(task.name, ())):
            found.setdefault(number, Shared(valid[number], task))
    return [found[number] for number in sorted(found)]


def _by_form(tasks: Sequence[Task]) -> Seen:
    """All pairs in all symmetries. Those of the training tasks, which may be many, are then looked up as they are."""
    found: Seen = {}
    for number, task in enumerate(tasks):
        for symmetry in range(SYMMETRIES):
            for form in _forms(task, symmetry):
                found.setdefault(form, set()).add((number, symmetry))
    return found


def _copies_of(training: Task, seen: Seen, valid: Sequence[Task]) -> list[int]:
    """The validation tasks that share enough pairs with this one."""
    pairs: Counter[tuple[int, int]] = Counter()
    cells: Counter[tuple[int, int]] = Counter()
    for form in _forms(training):
        for place in seen.get(form, ()):
            pairs[place] += 1
            cells[place] += cells_in(form)
    return [place[0] for place, count in pairs.items() if count == len(_forms(valid[place[0]])) or
            count >= ENOUGH and cells[place] >= ENOUGH_CELLS]


def _forms(task: Task, symmetry: int = 0) -> set[bytes]:
    """Of the pairs whose output is known; pairs that differ in their colours alone are one."""
    return {pair_form(example, symmetry) for example in task.examples if example.output is not None}


def _in_words(shared: Shared) -> str:
    if shared.valid.name == shared.train.name:
        return shared.valid.name
    return f"{shared.valid.name} (as {shared.train.name})"

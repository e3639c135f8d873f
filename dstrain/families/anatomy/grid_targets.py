"""Counts puzzles against the tasks themselves: each question as often as there were epochs, once a validation.

A question is known by what its query and its answer show, however they are turned or recoloured. One whose answer
stands in what is shown beside it is one too many.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from math import lcm
from pathlib import Path

import numpy as np

from dstrain.config.arc import PuzzleSource
from dstrain.config.schema import Recipe
from dstrain.data.collate import FILLER_ROW, UNSCORED
from dstrain.data.grids.canonical import pair_form
from dstrain.data.grids.grid_batch import GridBatch
from dstrain.data.grids.grid_feed import GridFeed
from dstrain.data.grids.grid_validation import valid_grids
from dstrain.data.grids.task import Example
from dstrain.data.grids.tokens import grid_of, ids_of
from dstrain.data.grids.views import SYMMETRIES
from dstrain.nn.grid_ids import SEPARATOR, START

Known = tuple[bytes, int]
"""what a query and its answer show, and the answer's cells: turned, it has as many, but other ends of rows"""


def targets_astray(recipe: Recipe, tokenizer: object, worlds: tuple[int, ...]) -> tuple[int, int]:
    """(cells lost or doubled, cells counted) of answers, on each number of ranks, in small steps: a window holds
    several."""
    found = [_of_training(recipe, tokenizer, source, world) for source in recipe.data.train for world in worlds]
    found += [_of_validation(recipe, tokenizer, world) for world in worlds if recipe.data.valid]
    return sum(astray for astray, _ in found), sum(counted for _, counted in found)


def _of_training(recipe: Recipe, tokenizer: object, source: PuzzleSource, world: int) -> tuple[int, int]:
    """Of whole epochs, in windows in which epochs end. Puzzles are as long as they are: none is left out."""
    expected = Counter(_known(example) for examples in _examples(source) for example in _asked(examples))
    count = expected.total()
    window = next((size for size in range(max(1, count // 3), count) if count % size), count + 1)
    epochs = lcm(window, count) // count
    recipe = replace(recipe, data=replace(recipe.data, train=(source,), valid=()), batch=replace(
        recipe.batch, window=window, length=2**20, tokens=recipe.batch.tokens, micro_tokens=recipe.batch.micro_tokens))
    scored, given_away = Counter(), 0
    with ExitStack() as stack:
        for rank in range(world):
            feed = stack.enter_context(closing(GridFeed(recipe, tokenizer, rank, world, None)))
            for step in feed:
                for batch in step.micro_batches:
                    found, away = _scored(batch)
                    scored, given_away = scored + found, given_away + away + _shown_but_not_scored(batch)
                if step.place["window"] >= count * epochs // window:
                    break
    expected = Counter({known: epochs * times for known, times in expected.items()})
    return _astray(scored, expected) + given_away, _cells(expected)


def _of_validation(recipe: Recipe, tokenizer: object, world: int) -> tuple[int, int]:
    expected = Counter(_known(example) for source in recipe.data.valid for task in _tasks(source)
                       for example in task["test"] if "output" in example)
    recipe = replace(recipe, batch=replace(recipe.batch, length=2**20))
    scored: Counter[Known] = Counter()
    for rank in range(world):
        for batch in valid_grids(recipe, tokenizer, rank, world):
            scored += _scored(batch)[0]
    return _astray(scored, expected), _cells(expected)


def _tasks(source: PuzzleSource) -> list[dict]:
    """By plain means: nothing here is shared with what training reads them with."""
    return list(json.loads(Path(source.path).read_text(encoding="utf-8")).values())


def _examples(source: PuzzleSource) -> list[list[dict]]:
    return [[example for example in (*task["train"], *task["test"]) if "output" in example] for task in _tasks(source)]


def _asked(examples: list[dict]) -> list[dict]:
    """Those beside which another one can be shown."""
    return [example for example in examples if any(other["input"] != example["input"] for other in examples)]


def _known(example: dict) -> Known:
    pair = Example(*(np.array(example[name], np.uint8) for name in ("input", "output")))
    return _form(pair), pair.output.size


def _form(pair: Example) -> bytes:
    return min(pair_form(pair, symmetry) for symmetry in range(SYMMETRIES))


def _scored(batch: GridBatch) -> tuple[Counter[Known], int]:
    """The questions of a batch, and the targets that stand in what is shown beside them."""
    found: Counter[Known] = Counter()
    given_away = 0
    for b, row in enumerate(batch.rows_B.tolist()):
        if row == FILLER_ROW:
            continue
        shown, query, targets = _read(batch, b)
        answer = grid_of(targets)
        is_whole = query is not None and answer is not None
        found[(_form(Example(query, answer)), answer.size) if is_whole else (b"no grid", len(targets))] += 1
        given_away += len(targets) * any(np.array_equal(query, grid) for grid in shown)
    return found, given_away


def _shown_but_not_scored(batch: GridBatch) -> int:
    """In training a decoder learns all outputs of a row but the first: how many of those targets are missing."""
    if batch.source_BS is not None:
        return 0
    missing = 0
    for b, length in enumerate(batch.lengths_B.tolist()):
        separators = np.flatnonzero(batch.ids_BT[b, :length] == SEPARATOR)
        ends = [*np.flatnonzero(batch.ids_BT[b, :length] == START)[1:] - 1, length]  # of each output the end, not shown
        if len(ends) != len(separators):  # a row that is not made of pairs
            missing += length
            continue
        for separator, end in [*zip(separators, ends, strict=True)][1:]:
            missing += int((batch.labels_BT[b, separator:end] == UNSCORED).sum())
    return missing


def _read(batch: GridBatch, b: int) -> tuple[list[np.ndarray], np.ndarray | None, np.ndarray]:
    """(inputs that are shown, the query, the targets of the answer), of a row."""
    ids, labels = (tensor[b, :batch.lengths_B[b]].numpy() for tensor in (batch.ids_BT, batch.labels_BT))
    if batch.source_BS is None:
        starts = np.flatnonzero(ids == START)
        separators = np.flatnonzero(ids == SEPARATOR)
        if not len(starts) or len(starts) != len(separators):
            return [], None, labels[labels != UNSCORED]
        inputs = [grid_of(np.append(ids[start + 1:end], ids_of(np.zeros((1, 1), np.uint8))[-1]))
                  for start, end in zip(starts, separators)]
        return inputs[:-1], inputs[-1], labels[separators[-1]:][labels[separators[-1]:] != UNSCORED]
    query = grid_of(batch.source_BS[b].numpy())
    shown = []
    if batch.context_BX is not None:
        lengths_G = batch.context_lengths_BG[b].tolist()
        grids_GL = batch.context_BX[b].view(len(lengths_G), -1).numpy()
        shown = [grid_of(grids_GL[g, :size]) for g, size in enumerate(lengths_G) if size and g % 2 == 0]
    return shown, query, labels[labels != UNSCORED]


def _astray(scored: Counter[Known], expected: Counter[Known]) -> int:
    return _cells(scored - expected) + _cells(expected - scored)


def _cells(questions: Counter[Known]) -> int:
    return sum(count * cells for (_, cells), count in questions.items())

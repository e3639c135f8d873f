"""Counts pairs and their targets against the pairs themselves: each as often as there were epochs, once a validation.

A pair is known by the tokens of its source and the targets that are scored with it: a target beside another source, or
one whose end is not scored, is one that is lost and one that nobody knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from math import lcm

from dstrain.config.schema import Recipe
from dstrain.config.translate import PairSource
from dstrain.data.collate import FILLER_ROW, UNSCORED
from dstrain.data.pairs.feed import PairFeed, valid_pairs
from dstrain.data.pairs.pair_batch import PairBatch
from dstrain.data.tokenizers.pair_tokenizer import PairTokenizer
from dstrain.families.anatomy.pair_excerpt import pairs_in

TOKENS = 256

Known = tuple[tuple[int, ...], tuple[int, ...]]
"""the tokens of a source, and the targets scored with it"""


def targets_astray(recipe: Recipe, tokenizer: PairTokenizer, worlds: tuple[int, ...]) -> tuple[int, int]:
    """(targets lost or doubled, targets counted) on each number of ranks, in small steps: a window holds several."""
    tokens = max(TOKENS, recipe.batch.length)
    recipe = replace(recipe, batch=replace(recipe.batch, tokens=tokens, micro_tokens=tokens))
    found = [_of_training(recipe, tokenizer, source, world) for source in recipe.data.train for world in worlds]
    found += [_of_validation(recipe, tokenizer, world) for world in worlds if recipe.data.valid]
    return sum(astray for astray, _ in found), sum(counted for _, counted in found)


def _of_training(recipe: Recipe, tokenizer: PairTokenizer, source: PairSource, world: int) -> tuple[int, int]:
    """Of a few whole epochs, in windows in which epochs end."""
    batch = recipe.batch
    once = _expected([source], recipe, tokenizer, batch.over_long)
    window, epochs = _window_and_epochs(once.total())
    expected = Counter({pair: epochs * count for pair, count in once.items()})
    recipe = replace(recipe, batch=replace(batch, window=window), data=replace(recipe.data, train=(source,)))
    windows, scored = once.total() * epochs // window, Counter()
    with ExitStack() as stack:
        for rank in range(world):
            feed = stack.enter_context(closing(PairFeed(recipe, tokenizer, rank, world, None)))
            for step in feed:
                scored += _scored(step.micro_batches)
                if step.place["window"] >= windows:
                    break
    return _astray(scored, expected), _targets(expected)


def _of_validation(recipe: Recipe, tokenizer: PairTokenizer, world: int) -> tuple[int, int]:
    expected = _expected(recipe.data.valid, recipe, tokenizer, over_long="cut")
    window, _ = _window_and_epochs(expected.total())
    recipe = replace(recipe, batch=replace(recipe.batch, window=window))
    scored = sum((_scored(valid_pairs(recipe, tokenizer, rank, world)) for rank in range(world)), Counter())
    return _astray(scored, expected), _targets(expected)


def _window_and_epochs(pairs: int) -> tuple[int, int]:
    """A window of a half to a third of the pairs, in which epochs end in its midst; and after how many epochs a window
    ends with one."""
    windows = [size for size in range(max(1, pairs // 3), pairs // 2 + 1) if pairs % size] or [pairs + 1]
    window = min(windows, key=lambda size: lcm(size, pairs))
    return window, lcm(window, max(1, pairs)) // max(1, pairs)


def _expected(sources: Iterable[PairSource], recipe: Recipe, tokenizer: PairTokenizer,
              over_long: str) -> Counter[Known]:
    return Counter(pair for source in sources for pair in _known(source, recipe, tokenizer, over_long))


def _known(source: PairSource, recipe: Recipe, tokenizer: PairTokenizer, over_long: str) -> Iterator[Known]:
    """Straight from the pairs: each side's tokens and its end, at most batch.length of them. A target that does not fit
    is cut and has no end; where such pairs are to be dropped, neither they nor those with a long source are there."""
    most = recipe.batch.length
    for text in pairs_in(source, recipe.data.languages):
        words, targets = tokenizer.source.encode(text.source).tolist(), tokenizer.target.encode(text.target).tolist()
        if over_long == "drop" and (len(words) >= most or len(targets) >= most):
            continue
        yield (*words[:most - 1], tokenizer.source.eot), tuple([*targets, tokenizer.target.eot][:most])


def _scored(batches: Iterable[PairBatch]) -> Counter[Known]:
    found: Counter[Known] = Counter()
    for batch in batches:
        for b, row in enumerate(batch.rows_B.tolist()):
            labels_T = batch.labels_BT[b]
            targets = labels_T[labels_T != UNSCORED]
            if row != FILLER_ROW or len(targets):
                found[tuple(batch.source_BS[b, :batch.source_lengths_B[b]].tolist()), tuple(targets.tolist())] += 1
    return found


def _astray(scored: Counter[Known], expected: Counter[Known]) -> int:
    return _targets(scored - expected) + _targets(expected - scored)


def _targets(pairs: Counter[Known]) -> int:
    return sum(count * len(targets) for (_, targets), count in pairs.items())

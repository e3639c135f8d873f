"""Faults that only pairs can have, planted into the production code of a process and pulled out again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

_undo: list[tuple[Any, str, Any]] = []


def plant(ranks: Any, fault: str) -> None:
    globals()[f"_{fault}"]()


def pull(ranks: Any) -> None:
    while _undo:
        owner, name, original = _undo.pop()
        setattr(owner, name, original)


def _set(owner: Any, name: str, value: Any) -> None:
    _undo.append((owner, name, getattr(owner, name)))
    setattr(owner, name, value)


def _collated(change: Any, *modules: str) -> None:
    """Each batch changed as it is made: in training, in validation, or in both."""
    from dstrain.data.pairs import feed, pair_validation
    for module in [{"feed": feed, "validation": pair_validation}[name] for name in modules or ("feed", "validation")]:
        inner = module.collate_pairs
        _set(module, "collate_pairs", lambda *arguments, inner=inner: change(inner(*arguments)))


def _no_start() -> None:
    """The target's own first token stands where the start should: the first one is never learned."""
    _collated(lambda batch: replace(batch, ids_BT=torch.where(batch.labels_BT < 0, 0, batch.labels_BT)))


def _end_not_scored() -> None:
    def change(batch):
        last_BT = torch.arange(batch.ids_BT.shape[1]) == batch.lengths_B[:, None] - 1
        return replace(batch, labels_BT=batch.labels_BT.masked_fill(last_BT, -100))
    _collated(change)


def _end_is_another_token() -> None:
    def change(batch):
        last_BT = torch.arange(batch.ids_BT.shape[1]) == batch.lengths_B[:, None] - 1
        return replace(batch, labels_BT=torch.where(last_BT, batch.ids_BT.clamp(max=1), batch.labels_BT))
    _collated(change)


def _padding_scored() -> None:
    _collated(lambda batch: replace(batch, labels_BT=batch.labels_BT.clamp(min=0)), "validation")


def _sources_of_the_neighbours() -> None:
    _collated(lambda batch: replace(batch, source_BS=batch.source_BS.roll(1, 0),
                                    source_lengths_B=batch.source_lengths_B.roll(1, 0)), "feed")


def _target_lines_one_late() -> None:
    """Line n of the source beside line n - 1 of the target."""
    from dstrain.data.reading.pair_files import PairFiles
    inner = PairFiles._parallel

    def wrong(self, source, target):
        found = list(inner(self, source, target))
        for (number, pair), (_, before) in zip(found, [found[-1], *found[:-1]]):
            yield number, replace(pair, target=before.target)

    _set(PairFiles, "_parallel", wrong)


def _drawn_with_replacement() -> None:
    """Some pairs come twice in an epoch, others never."""
    from dstrain.data.pairs import blocks
    inner = blocks.order_of
    _set(blocks, "order_of", lambda keys, *key: inner(keys, *key) // 2)


def _window_ends_lost() -> None:
    """The last batch of each window is left out, as a loader does that drops what is not full."""
    from dstrain.data.pairs import windows
    inner = windows.cut_by_length
    _set(windows, "cut_by_length", lambda *arguments: inner(*arguments)[:-1])


def _second_rank_repeats_the_first() -> None:
    from dstrain.data.pairs import feed
    inner = feed.rows_of_rank
    _set(feed, "rows_of_rank", lambda count, rank, shape: inner(count, 0, shape))


def _validation_rest_lost() -> None:
    """Only full windows are scored."""
    from dstrain.data.pairs import pair_validation
    inner = pair_validation._windows
    _set(pair_validation, "_windows",
         lambda recipe, *more: (held for held in inner(recipe, *more) if len(held) == recipe.batch.window))


def _source_padding_seen() -> None:
    from dstrain.models import seq2seq
    inner = seq2seq.can_attend_source_B11S
    _set(seq2seq, "can_attend_source_B11S",
         lambda lengths_B, slots: inner(torch.where(lengths_B > 0, slots, lengths_B), slots))


def _smoothing_forgotten() -> None:
    from dstrain.objectives.smoothed_next_token import SmoothedNextToken
    inner = SmoothedNextToken.__init__

    def wrong(self, label_smoothing):
        inner(self, label_smoothing)
        self.weights = (1.0, 0.0)

    _set(SmoothedNextToken, "__init__", wrong)


def _mean_of_means() -> None:
    """Each micro-batch divided by its own count, then averaged."""
    from dstrain.doctor import short_run
    from dstrain.train import step
    inner, law = step.train_step, step.loss_law

    def wrong(engine, objective, batches, rows_hash, number, seed, ranks):
        counts, parts = iter([objective.counts(batch) for batch in batches]), len(batches) * ranks.world
        step.loss_law = lambda nll, of_step, weights: law(nll, next(counts), weights) / parts
        try:
            return inner(engine, objective, batches, rows_hash, number, seed, ranks)
        finally:
            step.loss_law = law

    _set(short_run, "train_step", wrong)


def _window_begun_anew() -> None:
    """A run that goes on takes its window from the beginning."""
    from dstrain.data.pairs.feed import WindowPlace
    inner = WindowPlace.of
    _set(WindowPlace, "of", staticmethod(lambda place, *more: replace(inner(place, *more), batch=0)))

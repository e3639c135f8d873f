"""The anatomy of `lm`: rows packed with documents, each with its own start, end and positions."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dstrain.config.schema import Recipe
from dstrain.data.collate import UNSCORED, Batch
from dstrain.data.feed import TrainFeed
from dstrain.families.anatomy.lengths import ragged_lengths
from dstrain.families.anatomy.lm_targets import targets_astray
from dstrain.families.anatomy.text_excerpt import excerpt
from dstrain.families.own_class import shrunk
from dstrain.train.family import Anatomy

LANES = (4, 2, 1)
LONG_DOCUMENT = 200_000
"""characters"""
SMALL = {"preset": None, "width": 32, "heads": 2, "layers": 2, "ff": 64}


def _shrunk(recipe: Recipe, folder: Path) -> Recipe:
    """Width, depth, length and rows small enough for a proof to take seconds; everything else as it is."""
    return replace(recipe, model=shrunk(recipe.model, SMALL), data=_small_data(recipe),
                   batch=replace(recipe.batch, rows=8, micro_rows=2, length=32))


def _at_full_size(recipe: Recipe) -> Recipe:
    data = replace(_small_data(recipe), lanes=1)
    return replace(recipe, data=data, batch=replace(recipe.batch, rows=1, micro_rows=1))


def _small_data(recipe: Recipe) -> Any:
    """Read from the text itself: proofs make texts of their own, which no prepared shard holds."""
    lanes = next(lanes for lanes in LANES if lanes <= recipe.data.lanes)
    return replace(recipe.data, lanes=lanes, block_tokens=2048, prefetch_steps=2, prepared=None)


def _excerpt(recipe: Recipe, folder: Path, few: bool = False) -> Recipe:
    sizes = {"documents": 8, "first_characters": 2_000, "characters": 200} if few else {"long": LONG_DOCUMENT}
    made = {}
    for split in ("train", "valid"):
        folders = [folder / f"{split}-{number}" for number in range(len(getattr(recipe.data, split)))]
        for each in folders:
            each.mkdir()
        made[split] = tuple(excerpt(source, each, **sizes) for source, each in zip(getattr(recipe.data, split),
                                                                                   folders, strict=True))
    return replace(recipe, data=replace(recipe.data, prepared=None, **made))


def _ragged(batch: Batch, step: int) -> Batch:
    lengths_B = ragged_lengths(step, batch.rows_B, batch.lengths_B)
    return _ended(batch, lengths_B)


def _ended(batch: Batch, lengths_B: torch.Tensor) -> Batch:
    """The same rows, each with nothing behind its new length."""
    beyond_BT = torch.arange(batch.labels_BT.shape[1]) >= lengths_B[:, None]
    return replace(batch, lengths_B=lengths_B, labels_BT=batch.labels_BT.masked_fill(beyond_BT, UNSCORED),
                   ids_BT=batch.ids_BT.masked_fill(beyond_BT, 0),
                   segments_BT=batch.segments_BT.masked_fill(beyond_BT, -1),
                   positions_BT=batch.positions_BT.masked_fill(beyond_BT, 0))


def _intruded(recipe: Recipe, tokenizer: Any) -> Batch:
    """Each row has two documents and padding, all of different lengths."""
    with closing(TrainFeed(recipe, tokenizer, 0, 1, None)) as feed:
        batch = next(feed).micro_batches[0]
    rows, length = batch.ids_BT.shape
    slots_T, number_B = torch.arange(length), torch.arange(rows)
    ends_B = (length - 3 - number_B % 5).clamp(min=2)
    borders_B = (ends_B // 2 - number_B % 4).clamp(min=1)
    second_BT = slots_T >= borders_B[:, None]
    last_of_first_BT = slots_T == borders_B[:, None] - 1
    begins_BT = slots_T == borders_B[:, None]
    return _ended(replace(
        batch, segments_BT=second_BT.long(),
        positions_BT=torch.where(second_BT, slots_T - borders_B[:, None], slots_T),
        ids_BT=torch.where(begins_BT | (slots_T == 0), tokenizer.eot, _flowing(batch)),
        labels_BT=torch.where(last_of_first_BT, tokenizer.eot, batch.labels_BT)), ends_B)


def _flowing(batch: Batch) -> torch.Tensor:
    """[B, T] ids whose every next one is the label before it, also where the feed's own documents end."""
    return torch.cat([batch.ids_BT[:, :1], batch.labels_BT[:, :-1]], dim=1)


def _targets(batch: Batch, tokenizer: Any) -> tuple[torch.Tensor]:
    """The next id of the same document. Where a part of a document ends, no later id of the row tells its label: it
    is taken as it stands, but must be one."""
    segments_BT = batch.segments_BT
    goes_on_BT = torch.zeros_like(segments_BT, dtype=torch.bool)
    goes_on_BT[:, :-1] = (segments_BT[:, :-1] == segments_BT[:, 1:]) & (segments_BT[:, 1:] >= 0)
    last_BT = torch.where(batch.labels_BT == UNSCORED, tokenizer.eot, batch.labels_BT)
    found_BT = torch.where(goes_on_BT, batch.ids_BT.roll(-1, dims=1), last_BT)
    return (found_BT.masked_fill(~_inside(batch), UNSCORED),)


def _wrong(batch: Batch, tokenizer: Any) -> int:
    """Labels that are not the next token of their document, and documents that do not begin with their start token."""
    inside, segments_BT = _inside(batch), batch.segments_BT
    begins_BT = inside[:, :-1] & inside[:, 1:] & (segments_BT[:, :-1] != segments_BT[:, 1:])
    expected_BT, = _targets(batch, tokenizer)
    return int((batch.labels_BT != expected_BT).sum()) + int((batch.ids_BT[:, 1:] != tokenizer.eot)[begins_BT].sum())


def _inside(batch: Batch) -> torch.Tensor:
    return torch.arange(batch.ids_BT.shape[1]) < batch.lengths_B[:, None]


def _alone(batch: Batch, b: int) -> Batch:
    row, length = slice(b, b + 1), int(batch.lengths_B[b])
    cut = {name: getattr(batch, name)[row, :length] for name in ("ids_BT", "labels_BT", "segments_BT", "positions_BT")}
    return replace(batch, lengths_B=batch.lengths_B[row], rows_B=batch.rows_B[row], **cut)


LM_ANATOMY = Anatomy(
    shrink=_shrunk, at_full_size=_at_full_size, micro_sizes=(1, 4), excerpt=_excerpt, ragged=_ragged,
    intruded=_intruded, roles=lambda recipe: {"ids": "ids_BT", "segments": "segments_BT"},
    lengths=lambda batch: (batch.lengths_B, None),
    loss=lambda recipe, step=None: (recipe.objective.weights, 0.0),
    targets=lambda recipe, batch, tokenizer: _targets(batch, tokenizer), wrong=_wrong, alone=_alone,
    astray=targets_astray)

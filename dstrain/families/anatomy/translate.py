"""The anatomy of `translate`: a pair has a source with an end, and a target that starts with an end's token."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from dstrain.config.schema import Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.data.collate import UNSCORED
from dstrain.data.pairs.feed import PairFeed
from dstrain.data.pairs.pair_batch import PairBatch
from dstrain.data.reading.pair_sources import pair_corpora
from dstrain.data.tokenizers.pair_tokenizer import PairTokenizer
from dstrain.families.anatomy.lengths import ragged_lengths
from dstrain.families.anatomy.pair_excerpt import excerpt
from dstrain.families.anatomy.pair_targets import targets_astray
from dstrain.families.own_class import shrunk
from dstrain.train.family import Anatomy

MOST_LAYERS = 2
TOKENS, LENGTH, WINDOW, FIRST_PAIRS = 256, 48, 64, 600
PADDING = 3
"""slots behind the longest row of a batch that is looked into: rows as long as the model lose as many"""


def _shrunk(recipe: Recipe, folder: Path) -> Recipe:
    """Width, depth, length and pairs small enough for a proof to take seconds; everything else as it is. A shorter
    length must leave pairs to train on: here those that are longer are cut. A feed of pairs begins with reading and
    tokenizing a large block of them, and proofs open many feeds: they get the first pairs of each source."""
    layers = {side: min(MOST_LAYERS, getattr(recipe.model, side)) for side in ("encoder_layers", "decoder_layers")}
    model = shrunk(recipe.model, {"preset": None, "width": 32, "heads": 2, "ff": 64, **layers})
    length = min(LENGTH, recipe.batch.length)
    batch = replace(recipe.batch, tokens=TOKENS, micro_tokens=TOKENS // 4, window=WINDOW, length=length,
                    over_long="cut")
    recipe = replace(recipe, model=model, batch=batch, data=replace(recipe.data, prefetch_steps=2))
    return _on_first_pairs(recipe, folder, FIRST_PAIRS)


def _at_full_size(recipe: Recipe) -> Recipe:
    """Steps of about two pairs of ordinary length."""
    batch = replace(recipe.batch, tokens=recipe.batch.length, micro_tokens=recipe.batch.length, window=8,
                    over_long="cut")
    return replace(recipe, batch=batch, data=replace(recipe.data, prefetch_steps=1))


def _excerpt(recipe: Recipe, folder: Path, few: bool = False) -> Recipe:
    return _on_first_pairs(recipe, folder, 8 if few else 60)


def _on_first_pairs(recipe: Recipe, folder: Path, pairs: int) -> Recipe:
    made = {"train": [], "valid": []}
    for split, excerpts in made.items():
        for corpus, source in zip(pair_corpora(recipe.data, split), getattr(recipe.data, split), strict=True):
            own = folder / f"{split}-{corpus.number}"
            own.mkdir()
            excerpts.append(excerpt(corpus, source, recipe.data.languages, own, pairs))
    return replace(recipe, data=replace(recipe.data, **{split: tuple(sources) for split, sources in made.items()}))


def _ragged(batch: PairBatch, step: int) -> PairBatch:
    """Both sides, each by a number of its own. A source that is cut has no end, and a target neither."""
    lengths_B = ragged_lengths(step, batch.rows_B, batch.lengths_B)
    return _ended(batch, ragged_lengths(step + 1, batch.rows_B, batch.source_lengths_B), lengths_B)


def _ended(batch: PairBatch, source_lengths_B: torch.Tensor, lengths_B: torch.Tensor) -> PairBatch:
    """The same pairs, each with nothing behind its new lengths."""
    beyond_BS = torch.arange(batch.source_BS.shape[1]) >= source_lengths_B[:, None]
    beyond_BT = torch.arange(batch.ids_BT.shape[1]) >= lengths_B[:, None]
    return replace(batch, source_lengths_B=source_lengths_B, source_BS=batch.source_BS.masked_fill(beyond_BS, 0),
                   lengths_B=lengths_B, ids_BT=batch.ids_BT.masked_fill(beyond_BT, 0),
                   labels_BT=batch.labels_BT.masked_fill(beyond_BT, UNSCORED))


def _intruded(recipe: Recipe, tokenizer: PairTokenizer) -> PairBatch:
    """The pairs of a step, with padding behind every source and target."""
    with closing(PairFeed(in_micro_batches(recipe, None), tokenizer, 0, 1, None)) as feed:
        batch, = next(feed).micro_batches
    most = recipe.batch.length - PADDING
    return _padded(_ended(batch, _unequal(batch.source_lengths_B, most), _unequal(batch.lengths_B, most)), most)


def _unequal(lengths_B: torch.Tensor, most: int) -> torch.Tensor:
    """None is longer than that, and where all were equal, the first is shorter."""
    lengths_B = lengths_B.clamp(max=most)
    if bool((lengths_B == lengths_B[0]).all()):
        lengths_B[0] = (lengths_B[0] - 1).clamp(min=1)
    return lengths_B


def _padded(batch: PairBatch, most: int) -> PairBatch:
    """At most so many slots of each row, which hold all of it, and some more."""
    wider = {name: torch.nn.functional.pad(getattr(batch, name)[:, :most], (0, PADDING), value=value)
             for name, value in (("source_BS", 0), ("ids_BT", 0), ("labels_BT", UNSCORED))}
    return replace(batch, **wider)


def _targets(batch: PairBatch, tokenizer: PairTokenizer) -> tuple[torch.Tensor]:
    """The next token of the decoder's input. The last one no input tells: it is taken as it stands (a target that was
    cut has no end), but must be there."""
    last_BT = torch.where(batch.labels_BT == UNSCORED, tokenizer.target.eot, batch.labels_BT)
    slots_T = torch.arange(batch.ids_BT.shape[1])
    found_BT = torch.where(slots_T < batch.lengths_B[:, None] - 1, batch.ids_BT.roll(-1, dims=1), last_BT)
    return (found_BT.masked_fill(slots_T >= batch.lengths_B[:, None], UNSCORED),)


def _wrong(batch: PairBatch, tokenizer: PairTokenizer) -> int:
    """Labels that are not the target's next token, and targets that do not begin with the start token."""
    expected_BT, = _targets(batch, tokenizer)
    starts_B = batch.ids_BT[batch.lengths_B > 0, 0]
    return int((batch.labels_BT != expected_BT).sum()) + int((starts_B != tokenizer.target.eot).sum())


def _alone(batch: PairBatch, b: int) -> PairBatch:
    row, source_length, length = slice(b, b + 1), int(batch.source_lengths_B[b]), int(batch.lengths_B[b])
    return replace(batch, source_BS=batch.source_BS[row, :source_length], ids_BT=batch.ids_BT[row, :length],
                   labels_BT=batch.labels_BT[row, :length], rows_B=batch.rows_B[row],
                   source_lengths_B=batch.source_lengths_B[row], lengths_B=batch.lengths_B[row])


TRANSLATE_ANATOMY = Anatomy(
    shrink=_shrunk, at_full_size=_at_full_size, micro_sizes=(TOKENS // 4, TOKENS // 2), excerpt=_excerpt,
    ragged=_ragged, intruded=_intruded, roles=lambda recipe: {"ids": "ids_BT", "source": "source_BS"},
    lengths=lambda batch: (batch.lengths_B, batch.source_lengths_B),
    loss=lambda recipe, step=None: ((1.0,), recipe.objective.label_smoothing),
    targets=lambda recipe, batch, tokenizer: _targets(batch, tokenizer), wrong=_wrong, alone=_alone,
    astray=targets_astray)

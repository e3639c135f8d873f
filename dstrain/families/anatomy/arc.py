"""The anatomy of `arc`: a puzzle has a query, grids that are shown beside it or before it, and an answer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import pad

from dstrain.config.arc import ArcModel
from dstrain.config.schema import Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.data.collate import UNSCORED
from dstrain.data.grids.grid_batch import GridBatch
from dstrain.data.grids.grid_feed import GridFeed
from dstrain.data.grids.row import CHAMPION, DECODER
from dstrain.data.tokenizers.grid_tokenizer import GridTokenizer
from dstrain.families.anatomy.grid_excerpt import on_few_tasks
from dstrain.families.anatomy.grid_targets import targets_astray
from dstrain.families.anatomy.lengths import ragged_lengths
from dstrain.families.own_class import shrunk
from dstrain.nn.grid_ids import END, SEPARATOR, START
from dstrain.train.family import Anatomy

MOST_LAYERS = 2
TOKENS, LENGTH, WINDOW, DEMONSTRATIONS = 1024, 256, 32, 2
SHRUNK_TASKS, EXCERPT_TASKS, FEW_TASKS = 60, 8, 3
PADDING = 3
"""slots behind the longest row of a batch that is looked into"""


def _shrunk(recipe: Recipe, folder: Path) -> Recipe:
    """Width, depth and puzzles small enough for a proof to take seconds; everything else as it is."""
    layers = {name: min(MOST_LAYERS, count) for name in ("layers", "encoder_layers", "decoder_layers")
              if (count := getattr(recipe.model, name)) is not None}
    model = shrunk(recipe.model, {"preset": None, "width": 32, "heads": 2, "ff": 64, **layers})
    data = replace(recipe.data, prefetch_steps=2, demonstrations=min(DEMONSTRATIONS, recipe.data.demonstrations))
    batch = replace(recipe.batch, tokens=TOKENS, micro_tokens=TOKENS // 4, window=WINDOW,
                    length=min(LENGTH, recipe.batch.length))
    return on_few_tasks(replace(recipe, model=_unadapted(model), batch=batch, data=data), folder, SHRUNK_TASKS)


def _at_full_size(recipe: Recipe) -> Recipe:
    """Steps of about two puzzles."""
    batch = replace(recipe.batch, tokens=recipe.batch.length, micro_tokens=recipe.batch.length, window=8)
    return replace(recipe, model=_unadapted(recipe.model), batch=batch, data=replace(recipe.data, prefetch_steps=1))


def _unadapted(model: ArcModel) -> ArcModel:
    """Without adapters: beside weights that nobody trained they could learn little, and they begin as no change."""
    return replace(model, adapt=None, adapter_rank=0)


def _excerpt(recipe: Recipe, folder: Path, few: bool = False) -> Recipe:
    return on_few_tasks(recipe, folder, FEW_TASKS if few else EXCERPT_TASKS)


def _ragged(batch: GridBatch, step: int) -> GridBatch:
    """What is written and what is asked, each by a number of its own. What is cut has no end."""
    lengths_B = ragged_lengths(step, batch.rows_B, batch.lengths_B)
    if batch.source_BS is None:
        return _ended(batch, None, lengths_B)
    return _ended(batch, ragged_lengths(step + 1, batch.rows_B, batch.source_lengths_B), lengths_B)


def _ended(batch: GridBatch, source_lengths_B: torch.Tensor | None, lengths_B: torch.Tensor) -> GridBatch:
    """The same rows, each with nothing behind its new lengths."""
    beyond_BT = torch.arange(batch.ids_BT.shape[1]) >= lengths_B[:, None]
    batch = replace(batch, lengths_B=lengths_B, ids_BT=batch.ids_BT.masked_fill(beyond_BT, 0),
                    labels_BT=batch.labels_BT.masked_fill(beyond_BT, UNSCORED))
    if source_lengths_B is None:
        return batch
    beyond_BS = torch.arange(batch.source_BS.shape[1]) >= source_lengths_B[:, None]
    return replace(batch, source_lengths_B=source_lengths_B, source_BS=batch.source_BS.masked_fill(beyond_BS, 0))


def _intruded(recipe: Recipe, tokenizer: GridTokenizer) -> GridBatch:
    """The rows of a step, with padding behind each query, answer and shown grid. The first row is shown less."""
    with closing(GridFeed(in_micro_batches(recipe, None), tokenizer, 0, 1, None)) as feed:
        batch, = next(feed).micro_batches
    most = recipe.batch.length - PADDING
    source_lengths_B = None if batch.source_BS is None else _unequal(batch.source_lengths_B, most)
    batch = _ended(batch, source_lengths_B, _unequal(batch.lengths_B, most))
    wider = {name: pad(tensor[:, :most], (0, PADDING), value=value) for name, value in
             (("source_BS", 0), ("ids_BT", 0), ("labels_BT", UNSCORED)) if (tensor := getattr(batch, name)) is not None}
    return replace(batch, **wider, **_shown_less(batch))


def _shown_less(batch: GridBatch) -> dict[str, torch.Tensor]:
    """The grids with more padding, the first row without its last demonstration where it has two."""
    if batch.context_BX is None:
        return {}
    lengths_BG = batch.context_lengths_BG.clone()
    if lengths_BG.shape[1] > 2:
        lengths_BG[0, -2:] = 0
    grids_BGL = pad(batch.context_BX.view(*lengths_BG.shape, -1), (0, PADDING))
    beyond_BGL = torch.arange(grids_BGL.shape[2]) >= lengths_BG[:, :, None]
    return {"context_BX": grids_BGL.masked_fill(beyond_BGL, 0).flatten(1), "context_lengths_BG": lengths_BG}


def _unequal(lengths_B: torch.Tensor, most: int) -> torch.Tensor:
    """None is longer than that, and where all were equal, the first is shorter."""
    lengths_B = lengths_B.clamp(max=most)
    if bool((lengths_B == lengths_B[0]).all()):
        lengths_B[0] = (lengths_B[0] - 1).clamp(min=1)
    return lengths_B


def _targets(batch: GridBatch) -> tuple[torch.Tensor]:
    """Read from what comes in, a token at a time: within an output the next token. The last one no input tells: it is
    taken as it stands (an answer that was cut has no end), but must be there."""
    found_BT = torch.full_like(batch.labels_BT, UNSCORED)
    of_decoder = batch.source_BS is None
    for b, length in enumerate(batch.lengths_B.tolist()):
        ids, inside, outputs = batch.ids_BT[b, :length].tolist(), not of_decoder, 0
        # A row of one pair asks for its output. One of several that was cut in its first shows it: nothing is scored.
        only_one = ids.count(SEPARATOR) == 1 and int(batch.labels_BT[b, length - 1]) != UNSCORED
        for t, token in enumerate(ids):
            if token == SEPARATOR:
                outputs += 1
                inside = outputs > 1 or only_one
            elif of_decoder and token in (END, START):
                inside = False
            if inside:
                found_BT[b, t] = ids[t + 1] if t + 1 < length else max(int(batch.labels_BT[b, t]), -1)
                if found_BT[b, t] < 0:
                    found_BT[b, t] = END
    return (found_BT,)


def _expected(batch: GridBatch) -> torch.Tensor:
    """As `_targets`; in a validation a decoder's last output alone is scored."""
    found_BT, = _targets(batch)
    if batch.source_BS is None:
        answer_BT = _behind_last(batch.ids_BT, batch.lengths_B)
        more_B1 = ((batch.labels_BT != UNSCORED) & ~answer_BT).any(1, keepdim=True)
        return torch.where(more_B1 | answer_BT, found_BT, UNSCORED)
    return found_BT


def _behind_last(ids_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """From the last separator on."""
    slots_T = torch.arange(ids_BT.shape[1])
    real_BT = slots_T < lengths_B[:, None]
    last_B1 = torch.where((ids_BT == SEPARATOR) & real_BT, slots_T, -1).amax(1, keepdim=True)
    return (slots_T >= last_B1) & (last_B1 >= 0)


def _wrong(batch: GridBatch, tokenizer: GridTokenizer) -> int:
    """Labels that are not the next token of an output, and rows that do not begin with a start."""
    starts_B = batch.ids_BT[batch.lengths_B > 0, 0]
    return int((batch.labels_BT != _expected(batch)).sum()) + int((starts_B != START).sum())


def _alone(batch: GridBatch, b: int) -> GridBatch:
    row, length = slice(b, b + 1), max(1, int(batch.lengths_B[b]))
    found = {"ids_BT": batch.ids_BT[row, :length], "labels_BT": batch.labels_BT[row, :length],
             "lengths_B": batch.lengths_B[row], "rows_B": batch.rows_B[row]}
    if batch.source_BS is not None:
        found |= {"source_BS": batch.source_BS[row, :max(1, int(batch.source_lengths_B[b]))],
                  "source_lengths_B": batch.source_lengths_B[row]}
    if batch.context_BX is not None:
        lengths_G = batch.context_lengths_BG[b]
        pairs, longest = max(1, int((lengths_G > 0).sum()) // 2), max(1, int(lengths_G.max()))
        grids_GL = batch.context_BX[b].view(len(lengths_G), -1)[:2 * pairs, :longest]
        found |= {"context_BX": grids_GL.reshape(1, -1), "context_lengths_BG": lengths_G[None, :2 * pairs]}
    return replace(batch, **found)


def _roles(recipe: Recipe) -> dict[str, str]:
    if recipe.model.kind == DECODER:
        return {"ids": "ids_BT", "segments": "segments_BT"}
    context = {"context": "context_BX", "with_context": ("context_lengths_BG",)}
    return {"ids": "ids_BT", "source": "source_BS", **(context if recipe.model.kind == CHAMPION else {})}


def _context_padding(batch: GridBatch) -> torch.Tensor | None:
    """Behind each shown grid, and where a row has no such grid."""
    if batch.context_BX is None:
        return None
    lengths_BG = batch.context_lengths_BG
    slots_L = torch.arange(batch.context_BX.shape[1] // lengths_BG.shape[1])
    return (slots_L >= lengths_BG[:, :, None]).flatten(1)


ARC_ANATOMY = Anatomy(
    shrink=_shrunk, at_full_size=_at_full_size, micro_sizes=(TOKENS // 4, TOKENS // 2), excerpt=_excerpt,
    ragged=_ragged, intruded=_intruded, roles=_roles,
    lengths=lambda batch: (batch.lengths_B, batch.source_lengths_B), context_padding=_context_padding,
    loss=lambda recipe, step=None: ((1.0,), 0.0),
    targets=lambda recipe, batch, tokenizer: (_expected(batch),), wrong=_wrong, alone=_alone, astray=targets_astray)

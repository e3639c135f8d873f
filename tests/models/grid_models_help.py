"""Small models of the three kinds, and rows of random puzzles for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from dstrain.config.arc import ArcModel
from dstrain.data.grids.grid_batch import GridBatch, collate_grids
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER, Row, row_of
from dstrain.data.grids.task import Example
from dstrain.models.decoder_lm import DecoderLm
from dstrain.models.grid_champion import GridChampion
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.chance import row_keys
from dstrain.nn.grid_ids import VOCABULARY
from dstrain.nn.init import fill_initial

KINDS = (DECODER, ENCODER_DECODER, CHAMPION)
LENGTH = 1000


def small_model(kind: str, dropout: float = 0.0, block: str = "gelu", dtype: torch.dtype = torch.float64) -> nn.Module:
    layers = {"layers": 2} if kind == DECODER else {"encoder_layers": 2, "decoder_layers": 2}
    settings = ArcModel(kind=kind, width=32, heads=2, ff=64, dropout=dropout, block=block, **layers)
    model = (DecoderLm(settings, VOCABULARY, LENGTH) if kind == DECODER else
             Seq2Seq(settings, VOCABULARY, VOCABULARY, True, LENGTH) if kind == ENCODER_DECODER else
             GridChampion(settings, VOCABULARY, LENGTH))
    return fill_initial(model, 1).to(dtype)


def a_row(seed: int, shown: int = 2, answer: tuple[int, int] | None = None) -> Row:
    """Random grids of 1 to 5 a side."""
    random = np.random.default_rng(seed)

    def grid(shape: tuple[int, int] | None = None) -> np.ndarray:
        return random.integers(0, 10, shape or random.integers(1, 6, 2)).astype(np.uint8)

    return row_of([Example(grid(), grid()) for _ in range(shown)], Example(grid(), grid(answer)))


def batch_of(rows: list[Row], kind: str) -> GridBatch:
    if kind == ENCODER_DECODER:
        rows = [replace(row, shown=()) for row in rows]
    return collate_grids(rows, range(len(rows)), kind)


def hidden_of(model: nn.Module, batch: GridBatch) -> Tensor:
    return model(**batch.inputs(), keys_B=row_keys(1, 1, batch.rows_B)).hidden_BTD

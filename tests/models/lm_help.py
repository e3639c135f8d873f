"""Small language models and packed rows for the tests of models."""

from __future__ import annotations

import torch
from torch import Tensor

from dstrain.config.schema import LmModel
from dstrain.models.decoder_lm import DecoderLm
from dstrain.nn.init import fill_initial

VARIANTS = [{}, {"block": "swiglu"}, {"positions": "learned"}, {"positions": "sinusoidal", "block": "swiglu"},
            {"checkpoint_activations": True}]


def small_lm(vocab_size: int = 50, length: int = 24, seed: int = 1, dtype: torch.dtype = torch.float64,
             **settings) -> DecoderLm:
    settings = {"width": 16, "heads": 2, "layers": 2, "ff": 32} | settings
    model = fill_initial(DecoderLm(LmModel(**settings), vocab_size, length), seed).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)          # far from zero: differences show
    return model


def packed(*rows: list[int], length: int = 24, seed: int = 0, vocab_size: int = 50) -> dict[str, Tensor]:
    """Each row: the lengths of its documents; the rest is padding. packed([5, 7], [24]) is two rows."""
    ids_BT = torch.randint(0, vocab_size, (len(rows), length), generator=torch.Generator().manual_seed(seed))
    segments_BT, positions_BT = torch.full_like(ids_BT, -1), torch.zeros_like(ids_BT)
    for row, documents in enumerate(rows):
        start = 0
        for number, tokens in enumerate(documents):
            segments_BT[row, start:start + tokens] = number
            positions_BT[row, start:start + tokens] = torch.arange(tokens)
            start += tokens
    ids_BT[segments_BT < 0] = 0
    return {"ids_BT": ids_BT, "segments_BT": segments_BT, "positions_BT": positions_BT}

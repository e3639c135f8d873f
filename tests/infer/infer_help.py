"""A small model that does not just copy, and a tokenizer of bytes, for the tests of generation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dstrain.config.schema import LmModel
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.models.decoder_lm import DecoderLm
from dstrain.nn.init import fill_initial

PROMPTS = ["a", "the quick brown", "", "fox jumps", "ab"]
BYTES = load_tokenizer("bytes")


class Bytes:
    """A tokenizer of bytes whose end-of-text is 256; ids that are no UTF-8 are shown as numbers."""

    eot, vocab_size = 256, 257

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"{number}," for number in ids)


def model_of(length: int = 48, dtype: torch.dtype = torch.float64, vocab_size: int = 257, **settings) -> DecoderLm:
    settings = {"width": 32, "heads": 2, "layers": 2, "ff": 64, "dropout": 0.1} | settings
    model = fill_initial(DecoderLm(LmModel(**settings), vocab_size, length), seed=1).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 and "embed" not in name else 1.0)     # not just copying
    return model


def lively(dtype: torch.dtype = torch.float64) -> DecoderLm:
    """Logits from -3 to 5: a draw has likely and unlikely tokens."""
    model = model_of(dtype=dtype)
    with torch.no_grad():
        model.embed.weight.mul_(7.0)
    return model

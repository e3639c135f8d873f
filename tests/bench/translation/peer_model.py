"""The peer's model: torch.nn.Transformer with one embedding for source, target and output, and its greedy decoding.

B: rows, S: source positions, T: target positions, V: vocabulary, D: width, N: scored positions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """dstrain's preset `tiny`."""

    width: int = 128
    heads: int = 4
    encoder_layers: int = 4
    decoder_layers: int = 4
    ff: int = 256
    activation: str = "gelu"
    dropout: float = 0.3
    attention_dropout: float = 0.0
    """of attention's probabilities; nn.Transformer by itself uses `dropout` there, too"""


class PeerModel(nn.Module):
    """Padding stands at the ends of rows, given by their lengths."""

    def __init__(self, sizes: Sizes, vocab_size: int, length: int = 512):
        super().__init__()
        self.width = sizes.width
        self.embedding = nn.Embedding(vocab_size, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="enable_nested_tensor")
            self.transformer = nn.Transformer(
                sizes.width, sizes.heads, sizes.encoder_layers, sizes.decoder_layers, sizes.ff, sizes.dropout,
                activation=sizes.activation, norm_first=True, batch_first=True)
        for module in self.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = sizes.attention_dropout
        nn.init.normal_(self.embedding.weight, std=sizes.width**-0.5)
        self.register_buffer("places_LD", _sinusoids(length, sizes.width), persistent=False)

    def forward(self, source_BS: Tensor, source_lengths_B: Tensor, ids_BT: Tensor) -> Tensor:
        """hidden_BTD: what stands behind a row's end in its target reaches no position before it."""
        is_padding_BS = _beyond(source_lengths_B, source_BS.shape[1])
        return self._decode(ids_BT, self._encode(source_BS, is_padding_BS), is_padding_BS)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return hidden_ND @ self.embedding.weight.T

    @torch.no_grad()
    def greedy(self, source_BS: Tensor, source_lengths_B: Tensor, end: int) -> list[list[int]]:
        """The likeliest token each time, to the end token or to twice the source's length and ten; the start token is
        the end token, too. The prefix is read anew for each token: simple, and slow."""
        is_padding_BS = _beyond(source_lengths_B, source_BS.shape[1])
        memory_BSD = self._encode(source_BS, is_padding_BS)
        room_B = (2 * source_lengths_B + 10).clamp(max=len(self.places_LD) - 1)
        ids_BT = torch.full((len(source_BS), 1), end)
        rows_B = torch.arange(len(source_BS))  # those that are still being written
        written: list[list[int]] = [[] for _ in range(len(source_BS))]
        while len(rows_B):
            hidden_BTD = self._decode(ids_BT, memory_BSD[rows_B], is_padding_BS[rows_B])
            next_B = self.logits(hidden_BTD[:, -1]).argmax(dim=-1)
            ids_BT = torch.cat([ids_BT, next_B[:, None]], dim=1)
            is_done_B = (next_B == end) | (ids_BT.shape[1] > room_B[rows_B])
            for row, ids in zip(rows_B[is_done_B].tolist(), ids_BT[is_done_B].tolist()):
                written[row] = ids[1:-1] if ids[-1] == end else ids[1:]
            ids_BT, rows_B = ids_BT[~is_done_B], rows_B[~is_done_B]
        return written

    def _encode(self, source_BS: Tensor, is_padding_BS: Tensor) -> Tensor:
        return self.transformer.encoder(self._embed(source_BS), src_key_padding_mask=is_padding_BS)

    def _decode(self, ids_BT: Tensor, memory_BSD: Tensor, is_padding_BS: Tensor) -> Tensor:
        causal_TT = nn.Transformer.generate_square_subsequent_mask(ids_BT.shape[1])
        return self.transformer.decoder(self._embed(ids_BT), memory_BSD, tgt_mask=causal_TT, tgt_is_causal=True,
                                        memory_key_padding_mask=is_padding_BS)

    def _embed(self, ids_BT: Tensor) -> Tensor:
        return self.dropout(self.embedding(ids_BT) * math.sqrt(self.width) + self.places_LD[:ids_BT.shape[1]])


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(ids, lengths)."""
    ids = nn.utils.rnn.pad_sequence([torch.as_tensor(row, dtype=torch.int64) for row in rows], batch_first=True)
    return ids, torch.tensor([len(row) for row in rows])


def _beyond(lengths_B: Tensor, width: int) -> Tensor:
    return torch.arange(width) >= lengths_B[:, None]


def _sinusoids(length: int, width: int) -> Tensor:
    place_L1 = torch.arange(length)[:, None]
    angle_LC = place_L1 * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([angle_LC.sin(), angle_LC.cos()], dim=-1).flatten(1)

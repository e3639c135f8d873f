"""The decoder-only language model: token embedding, pre-norm blocks, and the embedding again as output matrix.

Shapes: B rows, T positions, S slots of the cache, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dstrain.config.schema import LmModel
from dstrain.nn.cache import KvCache
from dstrain.nn.chance import KeyedDropout, name_sites
from dstrain.nn.layers import Block, norm
from dstrain.nn.masks import can_attend_BTT
from dstrain.nn.transformer import EMBEDDING_STD, Hidden, Transformer


class DecoderLm(Transformer):
    def __init__(self, model: LmModel, vocab_size: int, length: int) -> None:
        super().__init__()
        self.settings, self.vocab_size, self.length = model, vocab_size, length
        self.embed = nn.Embedding(vocab_size, model.width)
        self.embed_positions = nn.Embedding(length, model.width) if model.positions == "learned" else None
        self.embed_dropout = KeyedDropout(model.dropout)
        self.blocks = nn.ModuleList(Block(model.block, model.width, model.heads, model.ff, model.dropout)
                                    for _ in range(model.layers))
        self.norm = norm(model.block, model.width)
        name_sites(self)

    def forward(self, *, ids_BT: Tensor, segments_BT: Tensor, positions_BT: Tensor, keys_B: Tensor | None) -> Hidden:
        """`keys_B` (row_keys) decides dropout; it may be None in eval mode, and where dropout is 0."""
        if ids_BT.shape[1] > self.length:
            raise ValueError(f"a row of {ids_BT.shape[1]} tokens does not fit this model's length {self.length}")
        slots_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        can_attend_B1TT = can_attend_BTT(segments_BT).unsqueeze(1)
        x_BTC = self.embed_dropout(self._embedded(ids_BT, positions_BT), keys_B, slots_T)
        turns = self.turns(positions_BT)
        for block in self.blocks:
            x_BTC = self.run(block, x_BTC, can_attend_B1TT, turns, keys_B, slots_T)
        return Hidden(self.norm(x_BTC))

    def new_cache(self, rows: int, capacity: int | None = None) -> KvCache:
        """Room for `capacity` tokens a row, by default the model's length, which is also the most."""
        return self.cache_of(rows, capacity, self.settings.layers)

    @torch.no_grad()
    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: KvCache) -> Tensor:
        """Hidden states [B, T, C] of new tokens that continue the cached rows, without gradients.

        `ids_BT` is right-padded: row b has `lengths_B[b]` new tokens (0: none); what follows them means nothing.
        """
        extension = cache.extend(ids_BT.shape[1], lengths_B)
        x_BTC = self.embed_dropout(self._embedded(ids_BT, extension.positions_BT), None, None)
        turns = self.turns(extension.positions_BT)
        for block, memory in zip(self.blocks, extension.memories, strict=True):
            x_BTC = block(x_BTC, extension.can_attend_B1TS, turns, None, None, memory)
        return self.norm(x_BTC)

    def initial_std(self, module_name: str, shape: Sequence[int]) -> float:
        if module_name.endswith(("attention.out", "ff.down")):
            # 2 * layers such outputs add up in the residual stream: this keeps their sum at the size of one.
            return EMBEDDING_STD / (2 * self.settings.layers) ** 0.5
        return EMBEDDING_STD

    def hidden_matrices(self) -> dict[str, int]:
        """The matrices inside the blocks, which Muon may update: parameter names, and how many matrices stand in each,
        one below the other (query, key and value are one parameter)."""
        return {f"blocks.{number}.{name}": count for number, block in enumerate(self.blocks)
                for name, count in block.matrices().items()}

    def _embedded(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        return self.with_places(self.embed(ids_BT), positions_BT, self.embed_positions)

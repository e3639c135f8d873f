"""The encoder-decoder of translation: pre-norm blocks on both sides, and the target's embedding again as output matrix.

Shapes: B rows, N rows that are picked, S positions of a source, T of a target, C channels, V target vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dstrain.config.translate import TranslateModel
from dstrain.nn.cache import KvCache
from dstrain.nn.chance import KeyedDropout, name_sites
from dstrain.nn.cross_attention import SourceMemory
from dstrain.nn.layers import Block, CrossBlock, norm
from dstrain.nn.masks import can_attend_earlier_B1TT, can_attend_source_B11S
from dstrain.nn.transformer import EMBEDDING_STD, Hidden, Transformer, residual_std


class Seq2Seq(Transformer):
    def __init__(self, model: TranslateModel, source_vocab: int, target_vocab: int, shared: bool, length: int) -> None:
        """`shared`: source and target have one vocabulary, and one embedding."""
        super().__init__()
        if shared and source_vocab != target_vocab:
            raise ValueError(f"a shared vocabulary has one size, not {source_vocab} and {target_vocab}")
        self.settings, self.length = model, length
        sizes = model.block, model.width, model.heads, model.ff, model.dropout
        learned = model.positions == "learned"
        self.embed = nn.Embedding(target_vocab, model.width)
        self.source_embed = None if shared else nn.Embedding(source_vocab, model.width)
        self.embed_positions = nn.Embedding(length, model.width) if learned else None
        self.source_embed_positions = nn.Embedding(length, model.width) if learned else None
        self.embed_dropout = KeyedDropout(model.dropout)
        self.source_embed_dropout = KeyedDropout(model.dropout)
        self.encoder = nn.ModuleList(Block(*sizes) for _ in range(model.encoder_layers))
        self.encoder_norm = norm(model.block, model.width)
        self.decoder = nn.ModuleList(CrossBlock(*sizes) for _ in range(model.decoder_layers))
        self.decoder_norm = norm(model.block, model.width)
        name_sites(self)

    def forward(self, *, source_BS: Tensor, source_lengths_B: Tensor, ids_BT: Tensor, lengths_B: Tensor,
                keys_B: Tensor | None) -> Hidden:
        """`keys_B` (row_keys) decides dropout; it may be None in eval mode, and where dropout is 0."""
        source_BSC, can_attend_B11S = self._encoded(source_BS, source_lengths_B, keys_B)
        self._check_length("target", ids_BT)
        positions_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        can_attend_B1TT = can_attend_earlier_B1TT(lengths_B, ids_BT.shape[1])
        x_BTC = self.embed_dropout(self._embedded(ids_BT, positions_T[None]), keys_B, positions_T)
        turns = self.turns(positions_T[None])
        for block in self.decoder:
            x_BTC = self.run(block, x_BTC, can_attend_B1TT, turns, source_BSC, can_attend_B11S, keys_B, positions_T)
        return Hidden(self.decoder_norm(x_BTC))

    @torch.no_grad()
    def encode(self, source_BS: Tensor, source_lengths_B: Tensor) -> SourceMemory:
        """What `extend` needs of the sources, without gradients: every decoder layer's keys and values of them."""
        source_BSC, can_attend_B11S = self._encoded(source_BS, source_lengths_B, None)
        return SourceMemory([block.cross_attention.keys(source_BSC) for block in self.decoder], can_attend_B11S)

    def new_cache(self, rows: int, capacity: int | None = None) -> KvCache:
        """Room for `capacity` target tokens a row, by default the model's length, which is also the most."""
        return self.cache_of(rows, capacity, self.settings.decoder_layers)

    @torch.no_grad()
    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: KvCache, memory: SourceMemory) -> Tensor:
        """Hidden states [B, T, C] of new tokens that continue the cached targets, without gradients.

        `ids_BT` is right-padded: row b has `lengths_B[b]` new tokens (0: none); what follows them means nothing.
        """
        extension = cache.extend(ids_BT.shape[1], lengths_B)
        x_BTC = self.embed_dropout(self._embedded(ids_BT, extension.positions_BT), None, None)
        turns = self.turns(extension.positions_BT)
        for block, source, own in zip(self.decoder, memory.layers, extension.memories, strict=True):
            x_BTC = block(x_BTC, extension.can_attend_B1TS, turns, source, memory.can_attend_B11S, None, None, own)
        return self.decoder_norm(x_BTC)

    def initial_std(self, module_name: str, shape: Sequence[int]) -> float:
        if "embed" in module_name:
            return EMBEDDING_STD
        side = getattr(self, module_name.split(".")[0])
        return residual_std(module_name, shape, sum(len(block.PARTS) for block in side))

    def hidden_matrices(self) -> dict[str, int]:
        """The matrices inside the blocks, which Muon may update: parameter names, and how many matrices stand in each,
        one below the other (query, key and value are one parameter)."""
        return {f"{side}.{number}.{name}": count for side in ("encoder", "decoder")
                for number, block in enumerate(getattr(self, side)) for name, count in block.matrices().items()}

    def _encoded(self, source_BS: Tensor, lengths_B: Tensor, keys_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """The encoder's output [B, S, C], and which of it may be attended."""
        self._check_length("source", source_BS)
        positions_S = torch.arange(source_BS.shape[1], device=source_BS.device)
        can_attend_B11S = can_attend_source_B11S(lengths_B, source_BS.shape[1])
        x_BSC = self.source_embed_dropout(self._embedded_source(source_BS, positions_S[None]), keys_B, positions_S)
        turns = self.turns(positions_S[None])
        for block in self.encoder:
            x_BSC = self.run(block, x_BSC, can_attend_B11S, turns, keys_B, positions_S)
        return self.encoder_norm(x_BSC), can_attend_B11S

    def _embedded(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        return self._placed(self.embed(ids_BT), positions_BT, self.embed_positions)

    def _embedded_source(self, source_BS: Tensor, positions_BS: Tensor) -> Tensor:
        embed = self.embed if self.source_embed is None else self.source_embed
        return self._placed(embed(source_BS), positions_BS, self.source_embed_positions)

    def _placed(self, x_BTC: Tensor, positions_BT: Tensor, learned: nn.Embedding | None) -> Tensor:
        """At size one: the output matrix, which the embedding is too, has to be small for a first loss of ln(V), but
        what enters the residual stream must not be, or what the blocks add drowns it."""
        return self.with_places(x_BTC, positions_BT, learned) * (1.0 / EMBEDDING_STD)

    def _check_length(self, side: str, ids_BT: Tensor) -> None:
        if ids_BT.shape[1] > self.length:
            raise ValueError(f"a {side} of {ids_BT.shape[1]} tokens does not fit this model's length {self.length}")

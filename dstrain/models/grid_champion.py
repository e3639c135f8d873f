"""The champion of grid puzzles: an encoder-decoder that reads demonstrations beside the query, in two dimensions.

    grids      every grid, of demonstrations and query alike, goes through the same encoder: its cells attend each other
    pairs      a demonstration's output attends its input, too: so it knows what became of what
    bridge     the query's cells attend all outputs of all demonstrations, in whatever order and number
    decoder    writes the answer cell by cell; it attends the query, which by now knows the rule

Shapes: B rows, S tokens of a query, T of an answer, G grids that are shown (inputs and outputs in turns), P pairs of
them, L tokens of the longest, X = G L, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dstrain.config.arc import ArcModel
from dstrain.nn.chance import KeyedDropout, name_sites, part_keys
from dstrain.nn.cross_attention import CrossAttention, SourceMemory
from dstrain.nn.grid_places import (
    FRAMES, PLACES, GridCache, Places, answer_places, framed_turns, grid_turns, read_places)
from dstrain.nn.layers import CrossBlock, PairBlock, norm
from dstrain.nn.masks import can_attend_earlier_B1TT, can_attend_source_B11S
from dstrain.nn.positions import Turns
from dstrain.nn.transformer import EMBEDDING_STD, Hidden, Transformer, residual_std


LOOKS = 2.8
"""of biases: a query at its own place begins with ten times the weight of its neighbours' and more"""


class Read(NamedTuple):
    """A batch of grids on their way through the encoder."""

    x_BSC: Tensor
    can_attend_B11S: Tensor
    turns: Turns
    """among its own cells"""
    asks: Turns
    """another grid"""
    asked: Turns
    """by another grid, or by what is written"""

    def of_side(self, side: int) -> Read:
        """Of grids in turns the inputs (0) or the outputs (1)."""
        x_BSC, can_attend_B11S, *turned = self
        return Read(x_BSC[side::2], can_attend_B11S[side::2],
                    *(Turns(*(tensor[side::2] for tensor in turns)) for turns in turned))


class GridChampion(Transformer):
    """Where one grid asks another, there are eight heads, one for each frame in which the other can be seen."""

    def __init__(self, model: ArcModel, vocab_size: int, length: int) -> None:
        super().__init__()
        self.settings, self.length = model, length
        sizes = model.block, model.width, model.heads, model.ff, model.dropout, FRAMES
        self.embed = nn.Embedding(vocab_size, model.width)
        self.embed_rows, self.embed_columns = nn.Embedding(PLACES, model.width), nn.Embedding(PLACES, model.width)
        self.embed_rows_left = nn.Embedding(PLACES, model.width)
        self.embed_columns_left = nn.Embedding(PLACES, model.width)
        self.embed_dropout = KeyedDropout(model.dropout)
        self.grid_embed_dropout = KeyedDropout(model.dropout)
        self.encoder = nn.ModuleList(PairBlock(*sizes) for _ in range(model.encoder_layers))
        self.context_norm, self.bridge_norm = norm(model.block, model.width), norm(model.block, model.width)
        self.bridge = CrossAttention(model.width, model.heads, bias=model.block == "gelu")
        self.bridge_dropout = KeyedDropout(model.dropout)
        self.encoder_norm = norm(model.block, model.width)
        self.decoder = nn.ModuleList(CrossBlock(*sizes) for _ in range(model.decoder_layers))
        self.decoder_norm = norm(model.block, model.width)
        name_sites(self)

    def forward(self, *, context_BX: Tensor, context_lengths_BG: Tensor, source_BS: Tensor, source_lengths_B: Tensor,
                ids_BT: Tensor, lengths_B: Tensor, keys_B: Tensor | None) -> Hidden:
        """`keys_B` (row_keys) decides dropout; it may be None in eval mode, and where dropout is 0."""
        query = self._encoded(context_BX, context_lengths_BG, source_BS, source_lengths_B, keys_B)
        slots_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        can_attend_B1TT = can_attend_earlier_B1TT(lengths_B, ids_BT.shape[1])
        places = answer_places(ids_BT)
        x_BTC = self.embed_dropout(self._embedded(ids_BT, places), keys_B, slots_T)
        turns, asks = grid_turns(places, *self._head), grid_turns(places, *self._framed)
        for block in self.decoder:
            x_BTC = self.run(block, x_BTC, can_attend_B1TT, turns, query.x_BSC, query.can_attend_B11S, keys_B, slots_T,
                             None, asks, query.asked)
        return Hidden(self.decoder_norm(x_BTC))

    @torch.no_grad()
    def encode(self, source_BS: Tensor, source_lengths_B: Tensor, context_BX: Tensor,
               context_lengths_BG: Tensor) -> SourceMemory:
        """What `extend` needs of queries and demonstrations, without gradients."""
        query = self._encoded(context_BX, context_lengths_BG, source_BS, source_lengths_B, None)
        return SourceMemory([block.cross_attention.keys(query.x_BSC, query.asked) for block in self.decoder],
                            query.can_attend_B11S)

    def new_cache(self, rows: int, capacity: int | None = None) -> GridCache:
        """Room for `capacity` tokens of an answer, by default the model's length, which is also the most."""
        return self.cache_of(rows, capacity, self.settings.decoder_layers, GridCache)

    @torch.no_grad()
    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: GridCache, memory: SourceMemory) -> Tensor:
        """Hidden states [B, T, C] of new tokens that continue the cached answers, without gradients.

        `ids_BT` is right-padded: row b has `lengths_B[b]` new tokens (0: none); what follows them means nothing.
        """
        places, extension = cache.places(ids_BT, lengths_B), cache.extend(ids_BT.shape[1], lengths_B)
        x_BTC = self.embed_dropout(self._embedded(ids_BT, places), None, None)
        turns, asks = grid_turns(places, *self._head), grid_turns(places, *self._framed)
        for block, source, own in zip(self.decoder, memory.layers, extension.memories, strict=True):
            x_BTC = block(x_BTC, extension.can_attend_B1TS, turns, source, memory.can_attend_B11S, None, None, own,
                          asks)
        return self.decoder_norm(x_BTC)

    def initial(self, name: str, shape: Sequence[int], seed: int) -> Tensor:
        """A head that sees a grid in a frame begins by looking at its own place there."""
        weight = super().initial(name, shape, seed)
        if name.endswith(("cross_attention.q.bias", "cross_attention.kv.bias")):
            head_width = self.settings.width // FRAMES
            weight.view(-1, head_width)[:FRAMES, :head_width // 2] = LOOKS
        return weight

    def initial_std(self, module_name: str, shape: Sequence[int]) -> float:
        if "embed" in module_name:
            return EMBEDDING_STD
        side = getattr(self, module_name.split(".")[0])
        return residual_std(module_name, shape, sum(len(block.PARTS) for block in side)
                            if isinstance(side, nn.ModuleList) else 1)

    def hidden_matrices(self) -> dict[str, int]:
        """The matrices inside the blocks, which Muon may update: parameter names, and how many matrices stand in each,
        one below the other."""
        blocks = {f"{side}.{number}.{name}": count for side in ("encoder", "decoder")
                  for number, block in enumerate(getattr(self, side)) for name, count in block.matrices().items()}
        return blocks | {f"bridge.{name}": count for name, count in self.bridge.MATRICES.items()}

    def _encoded(self, context_BX: Tensor, context_lengths_BG: Tensor, source_BS: Tensor, source_lengths_B: Tensor,
                 keys_B: Tensor | None) -> Read:
        """The query, which has seen the demonstrations."""
        query = self._read(source_BS, source_lengths_B, keys_B)
        slots_S = torch.arange(source_BS.shape[1], device=source_BS.device)
        context_BMC, can_attend_B11M = self._shown(context_BX, context_lengths_BG, keys_B)
        x_BSC = query.x_BSC
        for block in self.encoder:
            x_BSC = self.run(block, x_BSC, query.can_attend_B11S, query.turns, keys_B, slots_S)
        mixed_BSC = self.bridge(self.bridge_norm(x_BSC), context_BMC, can_attend_B11M)
        x_BSC = x_BSC + self.bridge_dropout(mixed_BSC, keys_B, slots_S)
        return query._replace(x_BSC=self.encoder_norm(x_BSC))

    def _shown(self, context_BX: Tensor, lengths_BG: Tensor, keys_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """All outputs of the demonstrations [B, 1 + P L, C], and which of it may be attended. The first is nothing at
        all: it may be attended where nothing is shown."""
        rows, grids = lengths_BG.shape
        keys_N = None if keys_B is None else part_keys(keys_B, grids)
        every = self._read(context_BX.view(lengths_BG.numel(), -1), lengths_BG.flatten(), keys_N)
        inputs, outputs = every.of_side(0), every.of_side(1)
        slots_L = torch.arange(inputs.x_BSC.shape[1], device=context_BX.device)
        of_inputs, of_outputs = (None, None) if keys_N is None else (keys_N[0::2], keys_N[1::2])
        input_NLC, output_NLC = inputs.x_BSC, outputs.x_BSC
        for block in self.encoder:
            input_NLC = self.run(block, input_NLC, inputs.can_attend_B11S, inputs.turns, of_inputs, slots_L)
            output_NLC = self.run(block, output_NLC, outputs.can_attend_B11S, outputs.turns, of_outputs, slots_L,
                                  input_NLC, inputs.can_attend_B11S, outputs.asks, inputs.asked)
        output_BMC = self.context_norm(output_NLC).view(rows, -1, output_NLC.shape[-1])
        nothing_B1C = torch.zeros_like(output_BMC[:, :1])
        is_there_BM = slots_L < lengths_BG[:, 1::2, None]
        always_B1 = torch.ones_like(is_there_BM[:, :1, 0])
        can_attend_BM = torch.cat([always_B1, is_there_BM.flatten(1)], dim=1)
        return torch.cat([nothing_B1C, output_BMC], dim=1), can_attend_BM[:, None, None]

    def _read(self, ids_BS: Tensor, lengths_B: Tensor, keys_B: Tensor | None) -> Read:
        places, left = read_places(ids_BS, lengths_B)
        slots_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        x_BSC = self._embedded(ids_BS, places, self.embed_rows_left(left.rows_BT) +
                               self.embed_columns_left(left.columns_BT))
        return Read(self.grid_embed_dropout(x_BSC, keys_B, slots_S),
                    can_attend_source_B11S(lengths_B, ids_BS.shape[1]), grid_turns(places, *self._head),
                    grid_turns(places, *self._framed), framed_turns(places, left, *self._framed))

    def _embedded(self, ids_BT: Tensor, places: Places, left: Tensor | float = 0.0) -> Tensor:
        """At size one, as in Seq2Seq: the output matrix, which the embedding is too, has to be small."""
        at_BTC = self.embed_rows(places.rows_BT) + self.embed_columns(places.columns_BT)
        return (self.embed(ids_BT) + at_BTC + left) * (1.0 / EMBEDDING_STD)

    @property
    def _framed(self) -> tuple[int, torch.dtype]:
        """Of a head that sees its grid in a frame."""
        return self.settings.width // FRAMES, self.output_weight.dtype

    @property
    def _head(self) -> tuple[int, torch.dtype]:
        return self.settings.width // self.settings.heads, self.output_weight.dtype

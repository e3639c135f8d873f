"""The decoder-only language model with routed experts and several prediction heads.

Shapes: B rows, T positions, S slots of the cache, C channels, V vocabulary, L layers with experts, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dstrain.config.moe import MoeModel
from dstrain.nn.cache import KvCache
from dstrain.nn.chance import KeyedDropout, name_sites
from dstrain.nn.drafting import Drafter, ParallelDrafter, SequentialDrafter
from dstrain.nn.expert_block import ExpertBlock, RoutedFeedForward
from dstrain.nn.init import initial_weight
from dstrain.nn.layers import Block, norm
from dstrain.nn.masks import can_attend_BTT
from dstrain.nn.next_heads import ParallelHead, SequentialHead, ahead
from dstrain.nn.routing import Real, Routed
from dstrain.nn.transformer import EMBEDDING_STD, Transformer, recomputed


class MoeHidden(NamedTuple):
    heads: tuple[Tensor, ...]
    """[B, T, C] of each prediction head, the next token's first"""
    routed: tuple[Routed, ...]
    """of each layer with experts"""


class MoeLm(Transformer):
    def __init__(self, model: MoeModel, vocab_size: int, length: int, bias_speed: float) -> None:
        """`bias_speed` 0: experts are chosen by their probabilities alone."""
        super().__init__()
        self.moves_bias = bias_speed > 0
        self.settings, self.vocab_size, self.length = model, vocab_size, length
        self.embed = nn.Embedding(vocab_size, model.width)
        self.embed_positions = nn.Embedding(length, model.width) if model.positions == "learned" else None
        self.embed_dropout = KeyedDropout(model.dropout)
        self.blocks = nn.ModuleList(_block(model, number, bias_speed) for number in range(model.layers))
        self.norm = norm("swiglu", model.width)
        self.further = nn.ModuleList(_head(model) for _ in range(model.next_tokens - 1))
        name_sites(self)

    def forward(self, *, ids_BT: Tensor, segments_BT: Tensor, positions_BT: Tensor, keys_B: Tensor | None) -> MoeHidden:
        """`keys_B` (row_keys) decides dropout; it may be None in eval mode, and where dropout is 0."""
        if ids_BT.shape[1] > self.length:
            raise ValueError(f"a row of {ids_BT.shape[1]} tokens does not fit this model's length {self.length}")
        slots_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        can_attend_B1TT = can_attend_BTT(segments_BT).unsqueeze(1)
        turns, real = self.turns(positions_BT), Real.where(segments_BT >= 0)
        tokens_BTC = self.embed(ids_BT)
        x_BTC = self.embed_dropout(self.with_places(tokens_BTC, positions_BT, self.embed_positions), keys_B, slots_T)
        routed = []
        for block in self.blocks:
            if isinstance(block, ExpertBlock):
                x_BTC, of_layer = self.run(block, x_BTC, can_attend_B1TT, turns, keys_B, slots_T, None, real)
                routed.append(of_layer)
            else:
                x_BTC = self.run(block, x_BTC, can_attend_B1TT, turns, keys_B, slots_T)
        heads = [self.norm(x_BTC)]  # further heads are computed again in the backward pass: one at a time is in memory
        for distance, head in enumerate(self.further, start=1):
            if isinstance(head, ParallelHead):
                heads.append(recomputed(head, x_BTC))
            else:
                token_BTC = ahead(tokens_BTC, segments_BT, distance)
                x_BTC, hidden_BTC = recomputed(head, x_BTC, token_BTC, can_attend_B1TT, turns, keys_B, slots_T)
                heads.append(hidden_BTC)
        return MoeHidden(tuple(heads), tuple(routed))

    def new_cache(self, rows: int, capacity: int | None = None) -> KvCache:
        """Room for `capacity` tokens a row, by default the model's length, which is also the most."""
        return self.cache_of(rows, capacity, self.settings.layers)

    @torch.no_grad()
    def extend(self, ids_BT: Tensor, lengths_B: Tensor, cache: KvCache) -> Tensor:
        """Hidden states [B, T, C] of new tokens that continue the cached rows, without gradients; of the first head.

        `ids_BT` is right-padded: row b has `lengths_B[b]` new tokens (0: none); what follows them means nothing.
        """
        return self.norm(self.trunk(ids_BT, lengths_B, cache))

    def trunk(self, ids_BT: Tensor, lengths_B: Tensor, cache: KvCache) -> Tensor:
        """As `extend`, before the norm: what the further heads go on from."""
        extension = cache.extend(ids_BT.shape[1], lengths_B)
        real = Real.where(torch.arange(ids_BT.shape[1], device=ids_BT.device) < lengths_B[:, None], counted=False)
        x_BTC = self.with_places(self.embed(ids_BT), extension.positions_BT, self.embed_positions)
        turns = self.turns(extension.positions_BT)
        for block, memory in zip(self.blocks, extension.memories, strict=True):
            if isinstance(block, ExpertBlock):
                x_BTC, _ = block(x_BTC, extension.can_attend_B1TS, turns, None, None, memory, real)
            else:
                x_BTC = block(x_BTC, extension.can_attend_B1TS, turns, None, None, memory)
        return x_BTC

    def new_drafter(self, rows: int, capacity: int | None = None) -> Drafter:
        """What proposes tokens beyond the next one during generation: the further heads, at least one."""
        if self.settings.further == "parallel":
            return ParallelDrafter(self.further)
        return SequentialDrafter(self.further, self.embed, self.turns, self.cache_of(rows, capacity, len(self.further)))

    @property
    def expert_layers(self) -> list[RoutedFeedForward]:
        return [block.ff for block in self.blocks if isinstance(block, ExpertBlock)]

    def after_step(self, seen_LX: Tensor, applied: bool) -> None:
        """Move the biases by the tokens of the whole step, over all micro-batches and ranks."""
        if not applied or not self.moves_bias:
            return
        for ff, seen_X in zip(self.expert_layers, seen_LX, strict=True):
            ff.router.balance_after_step(seen_X[:self.settings.experts])

    def initial(self, name: str, shape: Sequence[int], seed: int) -> Tensor:
        module_name, kind = name.rsplit(".", 1)
        if kind == "nudges":
            return torch.zeros(tuple(shape))
        if module_name.endswith("ff.experts"):
            return initial_weight(name, shape, self._residual_std() if kind == "down" else EMBEDDING_STD, seed)
        return super().initial(name, shape, seed)

    def initial_std(self, module_name: str, shape: Sequence[int]) -> float:
        into_the_stream = module_name.endswith(("attention.out", "ff.down", "shared.down"))
        return self._residual_std() if into_the_stream else EMBEDDING_STD

    def hidden_matrices(self) -> dict[str, int]:
        """As of DecoderLm, of attention, feed-forwards without experts and the further heads."""
        return {f"{where}.{number}.{name}": count for where in ("blocks", "further")
                for number, part in enumerate(getattr(self, where)) for name, count in part.matrices().items()}

    def _residual_std(self) -> float:
        # 2 * layers such outputs add up in the residual stream: this keeps their sum at the size of one.
        return EMBEDDING_STD / (2 * self.settings.layers) ** 0.5


def _block(model: MoeModel, number: int, bias_speed: float) -> nn.Module:
    if (number + 1) % model.every:
        return Block("swiglu", model.width, model.heads, model.ff, model.dropout)
    ff = RoutedFeedForward(model.width, model.experts, model.top_k, model.expert_ff, model.shared_experts, bias_speed)
    return ExpertBlock(model.width, model.heads, model.dropout, ff)


def _head(model: MoeModel) -> nn.Module:
    if model.further == "parallel":
        return ParallelHead(model.width, model.ff)
    return SequentialHead(model.width, model.heads, model.ff, model.dropout)

"""Faults of masks and of generation in the models that are trained here: what may be attended, and what arrives."""

from __future__ import annotations

from typing import Any

import torch

from dstrain.doctor.faults.planting import put
from dstrain.models import decoder_lm, grid_champion, moe_lm, seq2seq
from dstrain.models.decoder_lm import DecoderLm
from dstrain.models.grid_champion import GridChampion
from dstrain.models.moe_lm import MoeHidden, MoeLm
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.cache import Extension, KvCache
from dstrain.nn.cross_attention import CrossAttention
from dstrain.objectives.trainee import Trainee

MIXED = 1e-3


def documents_not_separated() -> None:
    """Each position sees the documents before its own in the row."""
    inner = decoder_lm.can_attend_BTT
    for module in (decoder_lm, moe_lm):
        put(module, "can_attend_BTT", lambda segments_BT: inner(torch.zeros_like(segments_BT)))


def future_seen() -> None:
    for module in (decoder_lm, moe_lm):
        put(module, "can_attend_BTT", lambda segments_BT: segments_BT[:, :, None] == segments_BT[:, None, :])
    for module in (seq2seq, grid_champion):
        put(module, "can_attend_earlier_B1TT", module.can_attend_source_B11S)


def segments_swallowed() -> None:
    """A wrapper whose **kwargs eat the segments: all of a row looks like one document."""
    for model in (DecoderLm, MoeLm):
        inner = model.forward

        def wrong(self: Any, *, ids_BT: torch.Tensor, keys_B: torch.Tensor | None, inner: Any = inner,
                  **kwargs: Any) -> Any:
            positions_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
            return inner(self, ids_BT=ids_BT, segments_BT=torch.zeros_like(ids_BT), positions_BT=positions_BT,
                         keys_B=keys_B)

        put(model, "forward", wrong)


def trainee_swallows_segments() -> None:
    """The model alone is right, but what the engine calls does not hand on where documents begin."""
    inner = Trainee.forward

    def wrong(self: Trainee, *, inputs: dict[str, torch.Tensor], **others: Any) -> Any:
        return inner(self, inputs={**inputs, "segments_BT": torch.zeros_like(inputs["segments_BT"])}, **others)

    put(Trainee, "forward", wrong)


def source_lengths_swallowed() -> None:
    """The same in a translator: padding of a source is attended by encoder and decoder."""
    inner = Seq2Seq._encoded
    put(Seq2Seq, "_encoded", lambda self, source_BS, lengths_B, keys_B: inner(self, source_BS, torch.full_like(
        lengths_B, source_BS.shape[1]), keys_B))
    of_grids = GridChampion._encoded
    put(GridChampion, "_encoded", lambda self, context_BX, context_lengths_BG, source_BS, lengths_B, keys_B: of_grids(
        self, context_BX, context_lengths_BG, source_BS, torch.full_like(lengths_B, source_BS.shape[1]), keys_B))


def padding_attended_across() -> None:
    """The encoder has its mask; the decoder looks at the source without one."""
    inner = CrossAttention.forward
    put(CrossAttention, "forward", lambda self, x_BTC, source, can_attend_B11S, *turns: inner(
        self, x_BTC, source, torch.ones_like(can_attend_B11S), *turns))


def padded_width_counts() -> None:
    """Hidden states depend on how wide the padded batch is, though not on what stands in the padding."""
    for model in (DecoderLm, Seq2Seq, MoeLm, GridChampion):
        inner = model.forward

        def wrong(self: Any, *, ids_BT: torch.Tensor, inner: Any = inner, **others: Any) -> Any:
            hidden, times = inner(self, ids_BT=ids_BT, **others), 1 + MIXED * ids_BT.shape[1]
            if isinstance(hidden, MoeHidden):
                return hidden._replace(heads=tuple(each_BTC * times for each_BTC in hidden.heads))
            return hidden._replace(hidden_BTD=hidden.hidden_BTD * times)

        put(model, "forward", wrong)


def rows_mixed() -> None:
    """Continuations see a little of their neighbours' hidden states."""
    for model in (DecoderLm, Seq2Seq, MoeLm, GridChampion):
        inner = model.extend

        def wrong(self: Any, *arguments: Any, inner: Any = inner) -> torch.Tensor:
            hidden_BTC = inner(self, *arguments)
            return hidden_BTC + MIXED * hidden_BTC.mean(dim=0, keepdim=True)

        put(model, "extend", wrong)


def generation_attends_padding() -> None:
    """Behind a short prompt, or a short source, stands padding; in training it was masked, here it is not."""
    inner, encode, read = KvCache.extend, Seq2Seq.encode, GridChampion.encode

    def all_slots(self: KvCache, new_length: int, lengths_B: torch.Tensor) -> Extension:
        extension = inner(self, new_length, lengths_B)
        seen = extension.can_attend_B1TS
        return extension._replace(can_attend_B1TS=torch.ones_like(seen) if new_length == 1 else seen)

    put(KvCache, "extend", all_slots)
    put(Seq2Seq, "encode", lambda self, source_BS, source_lengths_B: encode(self, source_BS, torch.full_like(
        source_lengths_B, source_BS.shape[1])))
    put(GridChampion, "encode", lambda self, source_BS, source_lengths_B, **shown: read(
        self, source_BS, torch.full_like(source_lengths_B, source_BS.shape[1]), **shown))


def cached_positions_of_the_row() -> None:
    """New tokens are placed by the slot that they stand in, prompts padded to one length: short ones jump ahead."""
    inner = KvCache.extend

    def wrong(self: KvCache, new_length: int, lengths_B: torch.Tensor) -> Extension:
        extension = inner(self, new_length, lengths_B)
        if new_length > 1:
            return extension
        return extension._replace(positions_BT=torch.full_like(extension.positions_BT, int(self.lengths_B.max()) - 1))

    put(KvCache, "extend", wrong)


def cache_far_slots_lost() -> None:
    """Slots behind the first 20 are attended for a token only: short prompts never get there."""
    inner = KvCache.extend

    def wrong(self: KvCache, new_length: int, lengths_B: torch.Tensor) -> Extension:
        extension = inner(self, new_length, lengths_B)
        slots_S = torch.arange(extension.can_attend_B1TS.shape[-1])
        lost_BTS = (slots_S >= 20) & (extension.positions_BT[:, :, None] - slots_S >= 2)
        return extension._replace(can_attend_B1TS=extension.can_attend_B1TS & ~lost_BTS.unsqueeze(1))

    put(KvCache, "extend", wrong)

"""torch.nn.Transformer, rightly and wrongly masked, as tutorials and their readers use it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.doctor import prove
from dstrain.doctor.library import Report

VOCAB, WIDTH, LONGEST, END = 30, 16, 10, 1
LENGTHS, SOURCE_LENGTHS = torch.tensor((10, 6, 8, 5)), torch.tensor((5, 9, 4, 10))


def causal(size: int) -> Tensor:
    """True where nothing may be seen."""
    return torch.ones(size, size, dtype=torch.bool).triu(1)


def beyond(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size) >= lengths[:, None]


class Translator(nn.Module):
    """An encoder-decoder out of torch.nn.Transformer; `leave_out` names masks that are forgotten."""

    def __init__(self, leave_out: tuple[str, ...] = (), batch_first: bool = True) -> None:
        super().__init__()
        self.leave_out = leave_out
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST + 4, WIDTH)
        self.inner = nn.Transformer(WIDTH, 2, 1, 1, 32, batch_first=batch_first)
        self.output = nn.Linear(WIDTH, VOCAB)

    def forward(self, source: Tensor, source_lengths: Tensor, ids: Tensor, lengths: Tensor, labels: Tensor) -> tuple:
        source_padding = beyond(source_lengths, source.shape[1])
        masks = {"tgt_mask": causal(ids.shape[1]), "src_key_padding_mask": source_padding,
                 "memory_key_padding_mask": source_padding, "tgt_key_padding_mask": beyond(lengths, ids.shape[1])}
        masks = {name: mask for name, mask in masks.items() if name not in self.leave_out}
        logits = self.output(self.inner(self.embedded(source), self.embedded(ids), **masks))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits

    def embedded(self, ids: Tensor) -> Tensor:
        return self.embed(ids) + self.places(torch.arange(ids.shape[1]))


class Writer(nn.Module):
    """A decoder-only model out of encoder layers, or out of decoder layers that are fed with their own row."""

    def __init__(self, masked: bool = True, batch_first: bool = True, own_memory: str | None = None,
                 tied: bool = False) -> None:
        super().__init__()
        self.masked, self.batch_first, self.own_memory = masked, batch_first, own_memory
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST + 4, WIDTH)
        if own_memory is None:
            self.inner = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=batch_first), 2)
        else:
            self.inner = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 32, batch_first=batch_first), 2)
        self.output = nn.Linear(WIDTH, VOCAB, bias=False)
        if tied:
            self.output.weight = self.embed.weight

    def forward(self, ids: Tensor, labels: Tensor) -> tuple:
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        mask = causal(x.shape[1] if self.batch_first else x.shape[0]) if self.masked else None
        if self.own_memory is None:
            x = self.inner(x, mask=mask)
        else:
            x = self.inner(x, x, tgt_mask=mask, memory_mask=mask if self.own_memory == "masked" else None)
        logits = self.output(x)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits


def pairs(number: int) -> dict[str, Tensor]:
    generator, slots_T = torch.Generator().manual_seed(number), torch.arange(LONGEST)
    source, target = (torch.randint(3, VOCAB, (4, LONGEST), generator=generator) for _ in range(2))
    source = source.masked_fill(slots_T >= SOURCE_LENGTHS[:, None], 0)
    target = target.masked_fill(slots_T == LENGTHS[:, None] - 1, END).masked_fill(slots_T >= LENGTHS[:, None], 0)
    ids = torch.cat([torch.full((4, 1), 2), target[:, :-1]], dim=1).masked_fill(slots_T >= LENGTHS[:, None], 0)
    return {"source": source, "source_lengths": SOURCE_LENGTHS, "ids": ids, "lengths": LENGTHS,
            "labels": target.masked_fill(slots_T >= LENGTHS[:, None], -100)}


def texts(number: int) -> dict[str, Tensor]:
    batch = pairs(number)
    ids, slots_T = batch["ids"], torch.arange(LONGEST)
    labels = torch.cat([ids[:, 1:], torch.zeros(4, 1, dtype=torch.long)], dim=1)
    return {"ids": ids, "labels": labels.masked_fill(slots_T >= LENGTHS[:, None] - 1, -100)}


def translator(leave_out: tuple[str, ...] = (), seed: int = 0) -> Report:
    torch.manual_seed(seed)
    return prove(Translator(leave_out), pairs, ids="ids", lengths="lengths", source="source",
                 source_lengths="source_lengths", end=END)


def writer(seed: int = 0, **how) -> Report:
    torch.manual_seed(seed)
    return prove(Writer(**how), texts, ids="ids", lengths=LENGTHS)


@pytest.mark.parametrize("seed", range(3))
def test_rightly_masked_it_is_proven(seed):
    for report in (translator(seed=seed), writer(seed), writer(seed, own_memory="masked")):
        assert report.passed, str(report)


def test_without_a_target_mask_it_sees_the_future():
    assert "future" in translator(("tgt_mask",)).failed
    assert writer(masked=False).failed == ["future", "padding"]  # what is later than a row's end is padding


def test_the_memorys_mask_is_the_one_that_is_forgotten():
    assert translator(("memory_key_padding_mask",)).failed == ["padding"]
    assert translator(("src_key_padding_mask",)).failed == ["padding"]


def test_on_the_right_a_causal_row_needs_no_mask_for_its_padding():
    """Only the proof of the arguments is red: with that mask goes the one thing that read the lengths."""
    assert translator(("tgt_key_padding_mask",)).failed == ["arguments"]


def test_fed_with_itself_as_memory_it_sees_the_future():
    report = writer(own_memory="unmasked")
    assert report.failed == ["future", "padding"]
    assert "a memory that holds the same positions" in report["future"].finding.cause


def test_without_batch_first_rows_attend_to_each_other():
    report = writer(batch_first=False)
    assert "neighbours" in report.failed


def test_an_embedding_of_unit_variance_tied_to_the_output_starts_too_high():
    assert writer(tied=True).failed == ["first_loss"]

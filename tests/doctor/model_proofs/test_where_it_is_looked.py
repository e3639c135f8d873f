"""The proofs look at each place, in both modes, at the labels, and at what a backward pass wrote by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.doctor import prove
from dstrain.doctor.faults.in_models import report_on
from dstrain.doctor.faults.toys import END, VOCAB, Decoder, EncoderDecoder, Out, ahead, lm_batch, mean_nll, seeded
from dstrain.doctor.finding import Finding
from dstrain.doctor.foreign import Foreign, subject_of
from dstrain.doctor.model_proofs.probes import labels_of, some_places

HOW = {"ids": "ids", "lengths": "lengths"}


def found(model: nn.Module, name: str) -> Finding:
    return report_on(model, only=[name])[name].finding


def long_batch(size: int) -> dict[str, Tensor]:
    ids = torch.randint(1, VOCAB, (2, size), generator=torch.Generator().manual_seed(0))
    return {"ids": ids, "lengths": torch.tensor([size, size]), "labels": ids.clone()}


class Long(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(200, self.places.embedding_dim)


class LateFuture(Long):
    """Beyond 64 tokens everything is seen."""

    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        may_see = super().may_see(ids, lengths).clone()
        may_see[:, 64:] = True
        return may_see


def test_each_of_the_first_places_is_looked_at_and_some_beyond():
    told = Foreign(None, "ids", "lengths", None, None, None, None, None, None, 0.0, None, (), False)
    places = some_places(subject_of(seeded(Long), long_batch(200), told))
    assert set(range(64)) <= set(places) and max(places) == 198 and 75 <= len(places) < 90
    assert len(places) == len(set(places))
    assert prove(seeded(Long), long_batch(100), only=["future"], **HOW).passed
    assert prove(seeded(LateFuture), long_batch(100), only=["future"], **HOW).failed == ["future"]


@pytest.mark.parametrize("place", range(10))
def test_a_leak_at_any_one_place_is_found(place):
    class OnePlace(Decoder):
        def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
            may_see = super().may_see(ids, lengths).clone()
            may_see[:, place, place + 1] = True
            return may_see

    assert not found(seeded(OnePlace), "future").passed


class InputsOfLabels(EncoderDecoder):
    """The decoder's input is made of its labels, moved on by one, as some models do it."""

    def forward(self, source: Tensor, source_lengths: Tensor, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        made = F.pad(labels[:, :-1].clamp(min=0), (1, 0), value=END)
        return super().forward(source, source_lengths, (ids + made) // 2, lengths, labels)


class InputsOfTheirOwnLabels(EncoderDecoder):
    def forward(self, source: Tensor, source_lengths: Tensor, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        return super().forward(source, source_lengths, (ids + labels.clamp(min=0)) // 2, lengths, labels)


def test_labels_that_are_past_may_be_seen_and_no_others():
    assert found(seeded(InputsOfLabels), "future").passed
    finding = found(seeded(InputsOfTheirOwnLabels), "future")
    assert not finding.passed and "logits are told their targets" in finding.cause


class ToldALittle(Decoder):
    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        logits = super().forward(ids, lengths, labels).logits[0]
        logits = logits + 1e-3 * F.one_hot(ahead(labels, 1).clamp(min=0), VOCAB)
        return Out(mean_nll(logits, ahead(labels, 1)), logits)


def test_a_target_that_is_told_a_little_is_found():
    assert not found(seeded(ToldALittle), "future").passed


def test_labels_are_known_by_what_they_hold():
    batch = {**lm_batch(0), "positions": torch.arange(12).expand(6, -1), "shifted": ahead(lm_batch(0)["labels"], 1)}
    told = Foreign(lambda model, batch: model(**{name: batch[name] for name in lm_batch(0)}), "ids", "lengths", None,
                   None, None, None, None, None, 0.0, None, (), False)
    assert labels_of(subject_of(seeded(Decoder), batch, told)) == {"labels": 1, "shifted": 0}


class SmoothedInTraining(Decoder):
    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[0].flatten(0, 1), ahead(labels, 1).flatten(),
                               label_smoothing=0.1 if self.training else 0.0)


def test_an_evaluation_may_leave_smoothing_out():
    assert prove(seeded(SmoothedInTraining), lm_batch, smoothing=0.1, only=["targets"], **HOW).passed
    assert prove(seeded(SmoothedInTraining), lm_batch, smoothing=0.2, only=["targets"], **HOW).failed == ["targets"]


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: object, grad: Tensor) -> Tensor:
        return 0.99 * grad


class SlightlyWrongBackward(Decoder):
    """Off by a hundredth, in the embedding alone."""

    def embedded(self, ids: Tensor) -> Tensor:
        return Scaled.apply(self.embed(ids)) + self.places(torch.arange(ids.shape[1]))


class HalfDetached(Decoder):
    """Half of what the places give is handed on without its gradient."""

    def embedded(self, ids: Tensor) -> Tensor:
        places = self.places(torch.arange(ids.shape[1]))
        return self.embed(ids) + torch.where(torch.arange(places.shape[1]) < 8, places, places.detach())


class Narrowed(Decoder):
    """Casts to float32 in its midst, as many models do for a norm or a loss."""

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return super().hidden(ids, lengths).float().to(torch.float32)


class NarrowForGood(Decoder):
    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x_BTC = super().hidden(ids, lengths)
        if x_BTC.dtype != torch.float32:
            raise RuntimeError("expected float32")
        return x_BTC


def test_a_backward_that_is_a_little_wrong_is_named_by_its_parameter():
    for build, name in ((SlightlyWrongBackward, "embed.weight"), (HalfDetached, "places.weight")):
        finding = found(seeded(build), "derivative")
        assert not finding.passed and f"1 of 37 parameters off: {name} by" in finding.figure, finding.figure


def test_the_derivative_is_taken_in_float64_or_not_at_all():
    model = seeded(Narrowed)
    finding = found(model, "derivative")
    assert finding.passed and float(finding.figure.split()[0]) < 1e-6
    assert torch.get_default_dtype() == torch.float32 and model.embed.weight.dtype == torch.float32
    report = report_on(seeded(NarrowForGood), only=["derivative"])
    assert report.not_proven == {"derivative": "the model does not run in float64 (RuntimeError: expected float32)"}

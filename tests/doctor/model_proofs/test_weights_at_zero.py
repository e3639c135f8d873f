"""Right models that start at zero raise no alarm, wrong ones are not hidden by it, and the zeros are put back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dstrain.doctor.faults.in_models import report_on
from dstrain.doctor.faults.toys import WIDTH, Decoder, causal, real, seeded
from dstrain.doctor.faults.wrong_models import Bidirectional


class Gated(Decoder):
    """ReZero: each layer behind a gate that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.zeros(2))

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x_BTC = self.embedded(ids)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            x_BTC = x_BTC + gate * (layer(x_BTC, self.may_see(ids, lengths)) - x_BTC)
        return self.norm(x_BTC)


class LowRank(Decoder):
    """LoRA beside the embedding: B starts at zero, so A has no gradient at first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(WIDTH, 4)), nn.Parameter(torch.zeros(4, WIDTH))

    def embedded(self, ids: Tensor) -> Tensor:
        x_BTC = super().embedded(ids)
        return x_BTC + x_BTC @ self.a @ self.b


def low_rank(b_is_zero: bool = True, a_is_zero: bool = False) -> nn.Module:
    model = seeded(LowRank)
    with torch.no_grad():
        model.b.mul_(0.0 if b_is_zero else 1.0)
        model.a.mul_(0.0 if a_is_zero else 1.0)
    return model


def at_zero(build: type[nn.Module], *parts: str) -> nn.Module:
    model = seeded(build)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(parts):
                parameter.zero_()
    return model


PROJECTIONS, HEAD = ("attention.out.weight", "feed.2.weight"), ("outputs.0.weight",)
RIGHT = {"gates": lambda: seeded(Gated), "low rank": low_rank, "projections": lambda: at_zero(Decoder, *PROJECTIONS),
         "head": lambda: at_zero(Decoder, *HEAD), "both": lambda: at_zero(Decoder, *PROJECTIONS, *HEAD)}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_model_that_starts_at_zero_raises_no_alarm_and_is_left_at_zero(name):
    model = RIGHT[name]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = report_on(model)
    assert report.passed and set(report.not_proven) == {"documents"}, str(report)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("parts", [PROJECTIONS, HEAD], ids=["projections", "head"])
def test_zeros_hide_no_future(parts):
    assert report_on(at_zero(Bidirectional, *parts), only=["future"]).failed == ["future"]


def test_what_stays_at_zero_for_good_is_a_fault():
    finding = report_on(low_rank(a_is_zero=True), only=["gradients"])["gradients"].finding
    assert not finding.passed and "2 all zero: a, b" in finding.figure and "a gate that stays at zero" in finding.cause


def test_what_is_frozen_at_zero_does_not_leave_it():
    model = low_rank()
    model.b.requires_grad_(False)
    finding = report_on(model, only=["gradients"])["gradients"].finding
    assert "1 frozen: b" in finding.figure and "1 all zero: a" in finding.figure


class OnlyItsOwnToken(Decoder):
    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return torch.eye(ids.shape[1], dtype=torch.bool).expand(len(ids), -1, -1)


class OnlyItsOwnAndTheNext(Decoder):
    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        size = ids.shape[1]
        return (~causal(ids) | torch.eye(size, dtype=torch.bool)) & real(lengths, size)[:, None] | torch.eye(
            size, dtype=torch.bool)


def test_a_model_without_a_past_has_no_proven_future():
    report = report_on(seeded(OnlyItsOwnToken), only=["future"])
    assert report.failed == [] and "no logit depends on any earlier token" in report.not_proven["future"]
    assert report_on(seeded(OnlyItsOwnAndTheNext), only=["future"]).failed == ["future"]

"""The update's rule by hand is torch's and dstrain's own; what the proofs of update, loop and bf16 see and let pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from dstrain.config.load import load_recipe
from dstrain.config.schema import Optim
from dstrain.doctor.case import Case
from dstrain.doctor.faults.in_training import FAULTS
from dstrain.doctor.proofs import gradient, logged, loop, update
from dstrain.doctor.proofs.gradient import of_each
from dstrain.doctor.proofs.update import ByHand, clipped, judged, norm, orthogonal
from dstrain.doctor.registry import PROOFS
from dstrain.runtime.muon import orthogonal as of_muon

PLANTED = {fault.name: fault for fault in FAULTS}
RANKS = pytest.mark.ranks


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)

    def no_decay(self, name: str) -> bool:
        return "norm" in name


def test_adamw_by_hand_is_torchs():
    torch.manual_seed(0)
    model = Model().double()
    optim = Optim(lr=0.1, betas=(0.8, 0.9), weight_decay=0.3)
    rule = ByHand.of(model, optim, {name: p.detach().clone() for name, p in model.named_parameters()})
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.3},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9), eps=optim.eps)
    for step in (1, 2, 3):
        gradient = {name: torch.randn_like(p) for name, p in model.named_parameters()}
        for name, p in model.named_parameters():
            p.grad = gradient[name]
        for group in adamw.param_groups:
            group["lr"] = 0.1 * step / 3
        adamw.step()
        rule.update(gradient, step / 3, step)
    for name, p in model.named_parameters():
        torch.testing.assert_close(rule.weights[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_orthogonal_by_hand_is_muons():
    for shape in ((4, 6), (6, 4)):
        matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(orthogonal(matrix), of_muon(matrix), rtol=1e-9, atol=1e-12)


def test_clipped_has_the_largest_norm_and_smaller_ones_stay():
    gradient = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert norm(clipped(gradient, 1.0)) == pytest.approx(1.0)
    assert clipped(gradient, 6.0) == gradient and clipped(gradient, 0.0) == gradient


@pytest.mark.parametrize("of_gradients, of_state, losses, passes", [
    ([1e-7], 1e-7, [5.0, 4.0], True), ([1e-3], 1e-7, [5.0, 4.0], False), ([1e-7], 1e-2, [5.0, 4.0], False),
    ([1e-7], 1e-7, [5.0, 5.1], False), ([float("nan")], 1e-7, [5.0, 4.0], False),
    ([1e-7], float("nan"), [5.0, 4.0], False), ([1e-7], 1e-7, [5.0, float("nan")], False)])
def test_each_figure_alone_makes_it_fail(of_gradients, of_state, losses, passes):
    assert judged(of_gradients, {"a": of_state}, losses, 1e-5, "fp32").passed is passes


def test_a_small_parameter_without_gradient_is_named():
    expected = {"large": torch.full((100,), 1.0), "norm": torch.full((4,), 0.1)}
    off, name = of_each({"large": expected["large"], "norm": torch.zeros(4)}, expected)
    assert name == "norm" and off == pytest.approx(1.0)


@contextmanager
def opened(recipe: str, *changes: str) -> Iterator[Case]:
    case = Case.of(load_recipe(recipe, list(changes)))
    try:
        yield case
    finally:
        case.close()


@pytest.fixture(scope="module")
def bf16() -> Iterator[Case]:
    with opened("quickstart", "engine.config=zero1_bf16") as case:
        yield case


@RANKS
@pytest.mark.parametrize("recipe, changes", [
    ("quickstart", ("engine.config=zero0_fp32",)), ("quickstart", ("engine.config=zero3_fp32", "optim.name=muon")),
    ("numbers-en-de", ("tokenizer=bytes", "engine.config=zero2_fp32"))])
def test_update_and_loop_hold_and_a_clip_that_is_ignored_is_seen(recipe, changes):
    with opened(recipe, *changes) as case:
        assert update.prove(case).passed and loop.prove(case).passed
        for name in ("clip ignored", "norms decayed"):
            assert not PLANTED[name].attempt(case).passed, name


@RANKS
@pytest.mark.parametrize("proof", [gradient, logged, update, loop])
def test_bf16_is_healthy(bf16, proof):
    finding = proof.prove(bf16)
    assert finding.passed, finding


@RANKS
@pytest.mark.parametrize("name", ["later micro-batches count more", "later micro-batches count more, logged",
                                  "norms without gradient", "norms decayed"])
def test_a_fault_that_the_rounding_of_bf16_once_hid_is_seen(bf16, name):
    finding = PLANTED[name].attempt(bf16)
    assert not finding.passed and finding.cause, finding


def test_both_are_among_the_proofs():
    assert {"update", "loop"} <= PROOFS.keys()

"""The chance law: masks are functions of (seed, step, row, site, slot, channel), and look like chance."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from dstrain.nn.chance import KeyedDropout, keep_mask, name_sites, row_keys, uniforms

SITE = 123_456_789
SLOTS_T = torch.arange(64)


def named(rate: float) -> KeyedDropout:
    dropout = KeyedDropout(rate)
    name_sites(nn.ModuleDict({"dropout": dropout}))
    return dropout


def test_row_keys_differ_by_seed_step_and_row_and_a_filler_row_has_one():
    keys = torch.stack([row_keys(seed, step, torch.arange(-1, 99)) for seed in (1, 2) for step in range(50)])
    assert keys.unique().numel() == 2 * 50 * 100


def test_the_mask_of_a_row_does_not_depend_on_the_micro_batch():
    rows_B = torch.tensor([5, 0, 7, 2])
    whole = keep_mask(row_keys(1, 9, rows_B), SITE, SLOTS_T, 32, 0.3)
    for place, row in enumerate(rows_B):
        assert torch.equal(whole[place], keep_mask(row_keys(1, 9, row[None]), SITE, SLOTS_T, 32, 0.3)[0])


def test_the_mask_is_the_same_in_every_dtype():
    keys_B, dropout = row_keys(1, 1, torch.arange(4)), named(0.25)
    kept = [dropout(torch.ones(4, 64, 48, dtype=dtype), keys_B, SLOTS_T) != 0
            for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)]
    assert all(torch.equal(kept[0], other) for other in kept[1:])


def test_kept_channels_are_scaled_by_one_over_keep_and_gradients_by_the_same():
    x_BTC = torch.full((2, 64, 16), 3.0, dtype=torch.float64, requires_grad=True)
    y_BTC = named(0.25)(x_BTC, row_keys(1, 1, torch.arange(2)), SLOTS_T)
    assert y_BTC.unique().tolist() == [0.0, pytest.approx(4.0, rel=1e-15)]
    y_BTC.sum().backward()
    assert torch.equal(x_BTC.grad * 3.0, y_BTC)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_mean_is_the_keep_rate(rate: float):
    keep = keep_mask(row_keys(1, 1, torch.arange(64)), SITE, SLOTS_T, 256, rate).double()
    five_sigma = 5 * (rate * (1 - rate) / keep.numel()) ** 0.5          # 2^20 numbers: 0.0015 at rate 0.1
    assert abs(keep.mean().item() - (1 - rate)) < five_sigma
    # Per slot, 256 channels keep a binomial number: its variance would show channels that go together.
    assert keep.sum(-1).var().item() == pytest.approx(256 * rate * (1 - rate), rel=0.1)


def test_rows_steps_sites_slots_and_channels_are_independent():
    def mask(step: int = 1, site: int = SITE, first_row: int = 0, first_slot: int = 0):
        keys_B = row_keys(1, step, torch.arange(first_row, first_row + 32))
        return keep_mask(keys_B, site, torch.arange(first_slot, first_slot + 64), 256, 0.5).double() * 2 - 1

    ours = mask()
    others = {"row": mask(first_row=1), "step": mask(step=2), "site": mask(site=SITE + 1), "slot": mask(first_slot=1),
              "channel": ours.roll(1, -1), "far channel": ours.roll(128, -1), "seed's sign": mask(step=-1)}
    for name, other in others.items():
        correlation = (ours * other).mean().item()
        assert abs(correlation) < 5 / ours.numel() ** 0.5, (name, correlation)      # 2^19 numbers: 0.0069


def test_no_two_and_no_three_channels_go_together():
    keep = keep_mask(row_keys(3, 1, torch.arange(128)), SITE, SLOTS_T, 128, 0.5).double().flatten(0, 1) * 2 - 1
    pairs = keep.T @ keep / len(keep) - torch.eye(128)                  # 8,192 slots: sigma 0.011
    assert pairs.abs().max() < 6 / len(keep) ** 0.5
    triples = torch.einsum("ni,nj,nk->ijk", keep[:, :40], keep[:, 40:80], keep[:, 80:]) / len(keep)
    assert triples.abs().max() < 6 / len(keep) ** 0.5


def test_rate_zero_and_eval_mode_hand_the_same_tensor_back_without_keys():
    x_BTC = torch.randn(1, 2, 3)
    assert KeyedDropout(0.0)(x_BTC, None, None) is x_BTC
    assert KeyedDropout(0.5).eval()(x_BTC, None, None) is x_BTC


def test_missing_keys_and_missing_names_are_said():
    with pytest.raises(ValueError, match="needs keys_B"):
        named(0.1)(torch.ones(1, 64, 3), None, SLOTS_T)
    with pytest.raises(RuntimeError, match="name_sites"):
        KeyedDropout(0.1)(torch.ones(1, 64, 3), row_keys(1, 1, torch.arange(1)), SLOTS_T)
    with pytest.raises(ValueError, match="below 1"):
        KeyedDropout(1.0)


def test_masks_and_keys_are_pinned():
    # These numbers must never change: a resumed run would draw other masks.
    assert row_keys(1, 2, torch.tensor([0, -1])).tolist() == PINNED_KEYS
    assert keep_mask(row_keys(1, 2, torch.tensor([0])), SITE, SLOTS_T[:2], 12, 0.5).tolist() == PINNED_MASK


PINNED_KEYS = [5162661305451431253, 8172676932160517230]
PINNED_MASK = [[[0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1]]]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_masks_have_the_same_bits():
    torch._dynamo.reset()
    dropout, x_BTC = named(0.3), torch.randn(3, 64, 37)
    keys_B = row_keys(1, 1, torch.arange(3))
    assert torch.equal(torch.compile(dropout, fullgraph=True)(x_BTC, keys_B, SLOTS_T), dropout(x_BTC, keys_B, SLOTS_T))


def test_uniforms_fill_the_unit_interval_evenly():
    numbers = torch.arange(100).repeat_interleave(1000)
    uniform = uniforms(0, numbers, torch.arange(1000).repeat(100))
    assert 0.0 <= uniform.min() and uniform.max() < 1.0
    assert uniform.unique().numel() == 100_000
    counts = torch.histc(uniform, 10, 0.0, 1.0)                         # 10,000 each, sigma 95
    assert (counts - 10_000).abs().max() < 5 * 95
    assert not torch.equal(uniform, uniforms(1, numbers, torch.arange(1000).repeat(100)))

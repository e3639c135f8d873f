"""Rotary turns and sinusoids: right angles, right convention, right precision."""

from __future__ import annotations

import math

import pytest
import torch

from dstrain.nn.positions import rotary_turns, sinusoid, turned


def test_channel_i_turns_with_channel_i_plus_half_at_the_llama_frequencies():
    turns = rotary_turns(torch.tensor([[3]]), 4, torch.float64)
    x_BTHD = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 4)
    assert turned(x_BTHD, turns).flatten().tolist() == pytest.approx([math.cos(3), 0.0, math.sin(3), 0.0], abs=1e-15)
    x_BTHD = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 4)
    assert turned(x_BTHD, turns).flatten().tolist() == pytest.approx(
        [0.0, math.cos(0.03), 0.0, math.sin(0.03)], abs=1e-15)          # 10,000^(-2/4) = 1/100


def test_products_of_turned_vectors_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def product(at: int, other: int) -> float:
        return (turned(q, rotary_turns(torch.tensor([[at]]), 16, torch.float64))
                * turned(k, rotary_turns(torch.tensor([[other]]), 16, torch.float64))).sum().item()

    assert product(5, 2) == pytest.approx(product(905, 902), rel=1e-11)
    assert abs(product(5, 2) - product(5, 3)) > 1e-3


def test_the_gradient_of_a_turn():
    x_BTHD = torch.randn(2, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    turns = rotary_turns(torch.randint(0, 50, (2, 3)), 6, torch.float64)
    assert torch.autograd.gradcheck(lambda x: turned(x, turns), x_BTHD)


def test_angles_are_fp32_even_in_a_bf16_model():
    turns = rotary_turns(torch.tensor([[1023]]), 8, torch.bfloat16)
    assert turns.cos_BT1F.dtype == torch.bfloat16
    # In bf16 the angle 1023 would be 1024: cos 0.99 instead of 0.36.
    assert turns.cos_BT1F[0, 0, 0, 0].item() == pytest.approx(math.cos(1023), abs=4e-3)


def test_sinusoids_have_size_one_and_an_odd_width_is_refused():
    table = sinusoid(torch.arange(500)[None], 64, torch.float32)
    assert table.square().mean().item() == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(ValueError, match="even width, not 7"):
        sinusoid(torch.arange(5)[None], 7, torch.float32)

"""Initial weights depend on name and seed alone."""

from __future__ import annotations

import torch

from dstrain.nn.init import initial_weight


def test_a_weight_is_a_function_of_its_name_and_the_seed():
    torch.manual_seed(0)
    first = initial_weight("blocks.0.ff.up.weight", (64, 32), 0.02, seed=1)
    torch.manual_seed(1)
    assert torch.equal(first, initial_weight("blocks.0.ff.up.weight", (64, 32), 0.02, seed=1))
    for name, seed in (("blocks.1.ff.up.weight", 1), ("blocks.0.ff.up.weight", 2)):
        other = initial_weight(name, (64, 32), 0.02, seed)
        assert abs(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) < 5 / 2048**0.5


def test_mean_and_spread():
    weight = initial_weight("w", (1000, 1000), 0.02, seed=1)
    assert weight.dtype == torch.float32 and weight.device.type == "cpu"
    assert abs(weight.mean().item()) < 5 * 0.02 / 1000
    assert abs(weight.std().item() / 0.02 - 1) < 0.005


def test_filling_takes_nothing_from_the_global_generator():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    initial_weight("w", (10,), 1.0, seed=1)
    assert torch.equal(torch.rand(3), expected)

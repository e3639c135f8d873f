"""Newton-Schulz by itself, the groups that the optimizer is made of, and the line that says so."""

from __future__ import annotations

import pytest
import torch

from dstrain.config.schema import Optim
from dstrain.runtime.muon import orthogonal
from dstrain.runtime.optimizer import build_optimizer, summary


@pytest.mark.parametrize("rows, cols", [(8, 8), (8, 24), (24, 8), (1, 5), (64, 256)])
def test_singular_values_come_near_one_and_vectors_stay(rows, cols):
    matrix = torch.randn(rows, cols, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = orthogonal(matrix)
    turned = u.T @ found.double() @ v.T
    assert found.shape == matrix.shape
    large = s / s.norm() > 0.02  # smaller ones need more than five iterations
    assert 0.65 < float(turned.diag()[large].min()) and float(turned.diag().max()) < 1.25
    assert float((turned - torch.diag(turned.diag())).abs().max()) < 1e-4


def test_size_does_not_matter_and_nothing_stays_nothing():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    for size in (1e-25, 1e-12, 1e12, 1e25):
        assert torch.allclose(orthogonal(matrix * size), orthogonal(matrix), atol=1e-5)
    assert not orthogonal(torch.zeros(6, 4)).any()


class Odd(torch.nn.Module):
    """Names that a search for "embed" and "head" would get wrong, both ways."""

    def __init__(self):
        super().__init__()
        self.emb, self.head = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7)
        self.blocks = torch.nn.ModuleList(torch.nn.ModuleDict({"embedder": torch.nn.Linear(4, 8)}) for _ in range(2))

    def hidden_matrices(self):
        return {f"blocks.{number}.embedder.weight": 2 for number in (0, 1)}

    def no_decay(self, name):
        return name.endswith("bias")


def test_the_models_word_decides_and_not_parts_of_names():
    model = Odd()
    optim = Optim(name="muon", lr=1e-3, muon_lr=2e-3, weight_decay=0.1)
    optimizer = build_optimizer(model, model.named_parameters(), optim, guarded=False)
    assert [(group["rule"], group["lr"], group["peak_lr"], group["weight_decay"], group["names"])
            for group in optimizer.param_groups] == [
        ("adamw", 1e-3, 1e-3, 0.1, ["emb.weight", "head.weight"]),
        ("adamw", 1e-3, 1e-3, 0.0, ["head.bias", "blocks.0.embedder.bias", "blocks.1.embedder.bias"]),
        ("muon", 2e-3, 2e-3, 0.1, ["blocks.0.embedder.weight", "blocks.1.embedder.weight"])]


def test_adamw_has_no_muon_group_and_a_wrong_name_is_an_error():
    model = Odd()
    optimizer = build_optimizer(model, model.named_parameters(), Optim(), guarded=False)
    assert [group["rule"] for group in optimizer.param_groups] == ["adamw", "adamw"]
    model.hidden_matrices = lambda: {"blocks.2.embedder.weight": 1}
    with pytest.raises(ValueError, match="names blocks.2.embedder.weight, but it has no such"):
        build_optimizer(model, model.named_parameters(), Optim(name="muon"), guarded=False)


def test_the_summary_says_which_rule_updates_what():
    model = Odd()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert summary(model, Optim(lr=6e-4), shapes) == "AdamW, lr 0.0006, weight decay 0.1"
    assert summary(model, Optim(name="muon", lr=6e-4, muon_lr=0.02), shapes) == (
        "Muon, lr 0.02, for 4 matrices of 64 parameters: blocks.*.embedder.weight (as 2); AdamW, lr 0.0006, weight "
        "decay 0.1, for the other 79")

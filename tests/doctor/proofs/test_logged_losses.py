"""What is read from the records of a model that is always right, and what its backward passes are seen to optimize."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dstrain.doctor.proofs.logged import _seen_by_backward, wrong_in_records

TRAINED = [{"step": 1, "loss": 5.5}, {"step": 2, "loss": 5.4}]
RIGHT = {"step": 2, "split": "valid", "loss": 0.0, "perplexity": 1.0}


@pytest.mark.parametrize("records, best, said", [
    ([*TRAINED, RIGHT], 0.0, []),
    ([*TRAINED, {**RIGHT, "loss": 5.4}], 0.0, ["a validation loss of 0 is written as"]),
    ([*TRAINED, RIGHT], 5.4, ["a validation loss of 0 is remembered as 5.4"]),
    ([*TRAINED, RIGHT], None, ["a validation loss of 0 is remembered as None"]),
    (TRAINED, 0.0, ["a validation loss of 0 is written as []"]),
    ([TRAINED[0], {"step": 2, "loss": 0.0}, RIGHT], 0.0, ["the training loss beside it is [5.5, 0.0]"])])
def test_a_validation_loss_of_0_must_stand_in_the_records_as_it_is(tmp_path, records, best, said):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = wrong_in_records(tmp_path / "metrics.jsonl", best)
    assert len(found) == len(said) and all(fault.startswith(start) for fault, start in zip(found, said))


class Sums(NamedTuple):
    nll: Tensor


class Trainee(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)

    def forward(self, x: Tensor) -> Sums:
        return Sums(self.model(x).sum().unsqueeze(0))


class Engine(nn.Module):
    """Hands on what the trainee returns, as engines do: it must not be counted twice."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Trainee()

    def forward(self, x: Tensor) -> Sums:
        return self.module(x)


@pytest.mark.parametrize("scale, world, optimized", [(1.0, 1, 6.0), (0.125, 1, 0.75), (1.0, 2, 3.0)])
def test_what_backward_gets_is_seen_with_all_that_it_was_multiplied_by(scale, world, optimized):
    engine, seen = Engine(), [0.0]
    nn.init.constant_(engine.module.model.weight, 2.0)
    with _seen_by_backward(seen, world):
        (engine(torch.tensor([[1.0], [2.0]])).nll.sum() * scale).backward()
    (engine(torch.tensor([[1.0]])).nll.sum()).backward()
    assert seen == [pytest.approx(optimized)]

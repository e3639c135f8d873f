"""A checkpoint is used by another process from an empty folder: what changed in it, or is missing, is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.proofs import rebuild

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def case():
    case = Case.of(load_recipe("quickstart", ["engine.config=zero3_bf16"]))
    yield case
    case.close()


def test_at_stage_3_in_bf16_it_is_rebuilt_to_the_bit_without_its_run_folder_and_data(case, monkeypatch):
    there: list[str] = []
    inner = rebuild.rebuilt

    def look(away: Path, expected: dict) -> tuple:
        there.extend(str(path) for path in case.folder.glob("rebuild-*"))
        there.extend(path.name for path in away.iterdir())
        return inner(away, expected)

    monkeypatch.setattr(rebuild, "rebuilt", look)
    finding = rebuild.prove(case)
    assert finding.passed and finding.figure.startswith("0 of 3 answers") and there == ["checkpoint"], finding


def test_an_engine_that_was_in_this_process_before_changes_nothing(case, monkeypatch):
    """At stage 3 it leaves DeepSpeed's linear layer in the place of torch's, which rounds otherwise."""
    monkeypatch.setattr(torch.nn.functional, "linear", zero3_linear_wrap)
    finding = rebuild.prove(case)
    assert finding.passed and torch.nn.functional.linear is zero3_linear_wrap, finding


def test_weights_that_are_not_the_newest_are_named(case, monkeypatch):
    """One of two thousand numbers is another one."""
    inner = rebuild.trained
    monkeypatch.setattr(rebuild, "trained", lambda *arguments: with_another_number(inner(*arguments)))
    finding = rebuild.prove(case)
    assert not finding.passed and "hidden states of head 0" in finding.cause and finding.remedy


def with_another_number(asked: dict) -> dict:
    hidden = asked["answers"]["hidden states of head 0"].clone()
    hidden.view(-1)[7] = hidden.view(-1)[7] * 1.01 + 1e-3
    return {**asked, "answers": {**asked["answers"], "hidden states of head 0": hidden}}

"""What a trained run with experts can be used for, one that two ranks shared the experts of."""

from __future__ import annotations

import pytest
import torch
from moe_small import lay_out_moe, run_on

from dstrain.__main__ import main
from dstrain.commands.average import load_averaged
from dstrain.runtime.checkpoint.loading import load
from dstrain.runtime.engine import counters
from dstrain.runtime.rank_group import RankGroup
from dstrain.train.run_folder import read_lines

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = lay_out_moe(tmp_path_factory.mktemp("used"))
    with RankGroup(2) as two:
        run_on(two, folder, "engine.expert_parallel=2", "checkpoint.every=3", "run.steps=6", "valid.every=6")
    return folder / "runs/small"


def test_one_process_scores_what_two_ranks_trained(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    assert main(["eval", str(run)]) == 0
    shown = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1}
    scores = [line for line in read_lines(run / "metrics.jsonl") if "split" in line][-1]
    assert float(shown["loss"]) == pytest.approx(scores["loss"], rel=1e-5)
    assert float(shown["accepted_length"]) == pytest.approx(scores["accepted_length"], abs=5e-3)


def test_the_average_of_checkpoints_rounds_what_is_counted_and_nothing_else(run):
    averaged, steps = load_averaged(run, "latest", 2, "generate")
    assert steps == [3, 6]
    both = [load(run / f"checkpoints/step_0000000{step}") for step in steps]
    apart = 0
    for name, held in counters(averaged.trainee):
        one, other = (checkpoint.weight_of(name.removeprefix("model."), held.shape).double() for checkpoint in both)
        apart += int((one != other).sum())
        assert held.tolist() == ((one + other) / 2).round().tolist()
    assert apart > 0
    for name, weight in averaged.trainee.named_parameters():
        one, other = (checkpoint.weight_of(name.removeprefix("model."), weight.shape).double() for checkpoint in both)
        assert torch.equal(weight.double(), ((one + other) / 2).float().double())


def test_other_software_has_no_counterpart_and_the_export_says_so(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", "hf", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "family moe has no counterpart in transformers that dstrain knows" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()

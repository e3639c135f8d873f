"""What is seen of experts and heads: held against one token after the other, the same on any number of ranks."""

from __future__ import annotations

import json
import math
import struct
import zlib
from types import SimpleNamespace

import pytest
import torch
from moe_small import board_of, lay_out_moe, numbers, run_on

from dstrain.__main__ import main
from dstrain.config.load import recipe_from_dict
from dstrain.families.moe import MOE
from dstrain.families.moe_seen import in_words, routing, shown
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.heads import IGNORED
from dstrain.objectives.drafts import found_by_heads
from dstrain.runtime.dist import lone_rank
from dstrain.runtime.rank_group import RankGroup
from dstrain.train.metrics import Meter
from dstrain.train.run_folder import read_lines
from dstrain.train.sinks import _lines
from dstrain.train.step import StepResult, Wishes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same run on one rank, and on two at stage 3; with steps that are skipped in neither."""
    folder = lay_out_moe(tmp_path_factory.mktemp("seen"))
    with RankGroup(1) as one, RankGroup(2) as two:
        run_on(one, folder, "run.name=one")
        (folder / "said").write_text(run_on(two, folder, "run.name=two", "batch.micro_rows=2", engine="zero3_fp32"))
    return folder


@pytest.fixture
def scores(folder):
    return {name: [line for line in read_lines(folder / f"runs/{name}/metrics.jsonl") if "split" in line]
            for name in ("one", "two")}


# How it is counted

def test_accuracy_and_drafts_are_those_of_a_walk_from_place_to_place():
    generator = torch.Generator().manual_seed(1)
    best = [torch.randint(0, 3, (2, 12), generator=generator) for _ in range(3)]
    labels = [torch.randint(0, 3, (2, 12), generator=generator) for _ in range(3)]
    for distance, labels_BT in enumerate(labels):
        labels_BT[0, 9 - distance:] = IGNORED
        labels_BT[1, 12 - distance:] = IGNORED
    right, agreed, kept = [0] * 3, [0] * 3, [0] * 3
    for b in range(2):
        for t in range(12):
            so_far = all(labels[k][b, t] != IGNORED for k in range(3))
            for k in range(3):
                if labels[k][b, t] == IGNORED:
                    continue
                right[k] += int(best[k][b, t] == labels[k][b, t])
                agrees = bool(best[k][b, t] == best[0][b, t + k])
                agreed[k] += agrees
                so_far = so_far and agrees
                kept[k] += so_far
    assert found_by_heads(best, labels).tolist() == [right, agreed, kept] and kept[0] > kept[1] > kept[2] > 0


def test_what_experts_were_not_given_is_counted_from_the_rows_not_from_the_router():
    recipe = SimpleNamespace(model=SimpleNamespace(experts=4, top_k=2, every=1, next_tokens=1))
    router = SimpleNamespace(nudges=torch.zeros(4, dtype=torch.int64))
    model = SimpleNamespace(expert_layers=[SimpleNamespace(router=router)] * 2)
    seen = torch.tensor([[6.0, 4.0, 0.0, 10.0, 10.0, 5.0]] * 2)
    whole, = {tuple(one.load) for one in routing(recipe, model, torch.tensor([9, 8, 20]), seen)}
    assert whole == (1.2, 0.8, 0.0, 2.0)
    for rows_hold, lost in ((10, 0), (13, 6)):
        found = routing(recipe, model, torch.tensor([9, 8, 2 * rows_hold]), seen)
        assert [one.dropped for one in found] == [lost, lost]
        assert found[0].entropy == pytest.approx(0.5 / math.log(4)) and found[1].largest_over_mean == 2.0


def test_biases_are_shown_off_their_layers_mean_as_only_differences_choose():
    recipe = SimpleNamespace(model=SimpleNamespace(experts=4, top_k=2, every=1, next_tokens=1))
    numbers = SimpleNamespace(nudges=torch.tensor([101, 100, 98, 103]), bias_speed=0.01)
    model, seen = SimpleNamespace(expert_layers=[SimpleNamespace(router=numbers)]), torch.ones(1, 6)
    counts = torch.tensor([9, 8, 2])
    seen_now = shown(recipe, model, counts, seen)
    assert seen_now.pictures["moe/bias"].texts == [["0", "0", "-2", "2"]]  # 0.5, -0.5, -2.5, 2.5: to the even number
    assert seen_now.scalars["moe/layer_00/largest_bias"] == pytest.approx(0.025)
    assert "nudges of objective.bias_speed (0.01), less the mean of its layer" in seen_now.pictures["moe/bias"].about
    assert "over an even share" in seen_now.pictures["moe/load"].about


def test_an_own_class_without_such_layers_has_no_bias_to_show():
    recipe = SimpleNamespace(model=SimpleNamespace(experts=4, top_k=2, every=1, next_tokens=1))
    seen_now = shown(recipe, SimpleNamespace(), torch.tensor([9, 8, 2]), torch.ones(1, 6))
    assert seen_now.scalars["moe/layer_00/largest_bias"] == 0.0


def test_what_waits_for_the_log_is_added_up_over_its_steps():
    objective = SimpleNamespace(terms=("next", "router_z"), weights_at=lambda step: (1.0, 0.1))
    meter = Meter(objective, lone_rank())
    for step in (1, 2):
        meter.add(step, StepResult(torch.ones(2, dtype=torch.float64), torch.tensor([3 * step, 8, 0, 0, 0]),
                                   {"adamw": 0.1}, 1.0, True, None, Wishes(), torch.full((2, 6), float(step))), 0.0)
    meter.flush()
    assert meter.seen.tolist() == [[3.0] * 6] * 2 and meter.counts.tolist() == [9, 16]


# What a run writes

def test_any_number_of_ranks_sees_the_same(folder, scores):
    for one, two in zip(scores["one"], scores["two"], strict=True):
        assert one["heads"].keys() == two["heads"].keys() == {"1", "2", "3"}
        assert "acceptance" not in one["heads"]["1"] and 1.0 <= one["accepted_length"] <= 3.0
        for head in one["heads"]:
            assert one["heads"][head] == pytest.approx(two["heads"][head], abs=2e-3)  # a tie within rounding or two
        for layer in ("layer_00", "layer_01"):
            assert one["experts"][layer]["load"] == pytest.approx(two["experts"][layer]["load"], abs=2e-3)
            assert one["experts"][layer]["largest_bias"] == two["experts"][layer]["largest_bias"] > 0
            assert one["experts"][layer]["dropped"] == 0
    boards = [board_of(folder / f"runs/{name}") for name in ("one", "two")]
    for tag in boards[0].Tags()["scalars"]:
        if tag.startswith(("moe/", "heads/", "terms/")):
            one, two = (dict(numbers(board, tag)) for board in boards)
            assert one == pytest.approx(two, abs=4e-3), tag


def test_tensorboard_has_few_numbers_a_layer_a_spread_and_pictures(folder):
    board = board_of(folder / "runs/one")
    of_layer = {"largest_over_mean", "entropy", "dropped", "largest_bias"}
    wanted = {f"moe/layer_{layer}/{name}" for layer in ("00", "01") for name in of_layer}
    wanted |= {"moe/largest_over_mean", "moe/dropped", "terms/balance/loss", "terms/router_z/loss"}
    wanted |= {f"heads/{head}/{name}" for head in (1, 2, 3) for name in ("loss", "valid_loss", "accuracy")}
    wanted |= {"heads/2/acceptance", "heads/3/acceptance"}
    there = {tag for tag in board.Tags()["scalars"] if tag.startswith(("moe/", "heads/"))}
    assert there == {tag for tag in wanted if not tag.startswith("terms/")} and wanted <= set(board.Tags()["scalars"])
    assert {value for _, value in numbers(board, "moe/dropped")} == {0.0}
    assert [step for step, _ in numbers(board, "moe/layer_00/entropy")] == [2, 3, 4, 6]  # logs, and a validation at 3
    assert [step for step, _ in numbers(board, "valid/accepted_length")] == [3, 6]
    assert set(board.Tags()["histograms"]) == {"moe/layer_00/load", "moe/layer_01/load"}
    assert all(0 < event.histogram_value.num <= 4 for event in board.Histograms("moe/layer_00/load"))
    for tag in ("moe/load", "moe/bias"):
        assert [event.step for event in board.Images(tag)] == [2, 6]  # the first log and the last step
        assert size_of(board.Images(tag)[0].encoded_image_string) == (board.Images(tag)[0].width,
                                                                      board.Images(tag)[0].height)


def test_the_loss_of_a_head_is_no_mean_over_other_terms(folder):
    records = [line for line in read_lines(folder / "runs/one/metrics.jsonl") if "split" not in line]
    board = board_of(folder / "runs/one")
    for number, term in (("heads/2/loss", "next2"), ("terms/balance/loss", "balance")):
        assert [value for _, value in numbers(board, number)] == pytest.approx(
            [record["terms"][term] for record in records], rel=1e-6)


def test_the_first_screen_says_what_a_token_meets(folder):
    said = (folder / "said").read_text()
    assert "model      moe, 0.078M parameters (78,400)" in said
    assert "0.0538M active a token; 4 experts in each layer, 2 of them a token; 3 heads (parallel)" in said


# dstrain eval

def test_eval_prints_the_same_as_a_table(folder, scores, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["eval", "runs/two"]) == 0
    out, last = capsys.readouterr().out, scores["two"][-1]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    for head, term in (("1", "next"), ("2", "next2"), ("3", "next3")):
        loss, accuracy, acceptance = rows[f"t+{head}"]
        assert float(loss) == pytest.approx(last["terms"][term], abs=1e-3)
        assert float(accuracy) == pytest.approx(last["heads"][head]["accuracy"], abs=2e-3)
        assert head == "1" and acceptance == "-" or 0 <= float(acceptance) <= 1
    for layer, of_layer in last["experts"].items():
        largest, smallest, entropy, dropped, bias = map(float, out.split(layer)[1].split()[:5])
        assert (largest, smallest) == pytest.approx((max(of_layer["load"]), min(of_layer["load"])), abs=2e-3)
        assert (entropy, dropped, bias) == pytest.approx((of_layer["entropy"], 0, of_layer["largest_bias"]), abs=2e-3)
        assert list(map(float, rows[layer])) == pytest.approx(of_layer["load"], abs=6e-3)  # the last table's
    assert "{" not in out


def test_a_table_says_of_sequential_heads_that_they_are_told_the_true_tokens_before_theirs(scores):
    for further, told in (("parallel", False), ("sequential", True)):
        model = SimpleNamespace(experts=4, top_k=2, every=1, next_tokens=3, further=further)
        said = "\n".join(in_words(SimpleNamespace(model=model), scores["one"][-1]))
        assert ("told the true tokens before the one that they predict" in said) is told
        assert "acceptance: how often" in said and "1 is undecided" in said
        assert all(len(line) <= 120 for line in said.split("\n"))


def test_a_number_that_json_lacks_becomes_null_inside_of_lists_too():
    assert json.loads(_lines([{"load": [1.0, math.nan], "of": {"x": [math.inf]}}])) == {"load": [1.0, None],
                                                                                       "of": {"x": [None]}}


def size_of(file: bytes) -> tuple[int, int]:
    """Of a PNG, whose rows are all there."""
    width, height = struct.unpack(">II", file[16:24])
    data = file[file.index(b"IDAT") + 4:file.index(b"IEND") - 8]
    assert len(zlib.decompress(data)) == height * (3 * width + 1)
    return width, height


@pytest.mark.parametrize("further, of_a_head", [("parallel", 3 * 16 * 24 + 32), ("sequential", 4 * 256 + 3 * 16 * 24
                                                                                + 2 * 256 + 5 * 16)])
def test_work_a_target_is_counted_of_what_it_meets_with_the_output_matrix_once_a_head(further, of_a_head):
    recipe = recipe_from_dict({
        "family": "moe", "data": {"train": [{"embedded": "python-stdlib"}]}, "run": {"name": "a", "steps": 1},
        "model": {"width": 16, "heads": 2, "layers": 2, "ff": 24, "experts": 4, "expert_ff": 12, "top_k": 1,
                  "next_tokens": 3, "further": further}, "batch": {"rows": 1, "micro_rows": 1, "length": 8}})
    model = MoeLm(recipe.model, 50, 8, 0.0)
    layer = 4 * 256 + 2 * 16 + 4 * 16 + 3 * 16 * 12
    met = 3 * 50 * 16 + 2 * layer + 16 + 2 * of_a_head
    attention = 12 * (2 + 2 * (further == "sequential")) * 16 * 8
    assert MOE.flops_a_target(recipe, sum(p.numel() for p in model.parameters())) == 6 * met + attention

"""Runs whose experts live on several ranks: interrupted, moved to another shape, validated, writing, by Muon."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from moe_jobs import shared_out, steps_before_a_tie, steps_with_experts
from restored_jobs import restored_with_harm
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from watch_jobs import training

from dstrain.config.schema import Source
from dstrain.doctor.finding import largest, relative
from dstrain.doctor.proofs.resume import differences_after_two_stops, forget_after, resumable, run_to_end
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks
BOUND = 1e-5


@pytest.mark.parametrize("world, ds_config", [(2, "zero3_bf16"), (4, "zero0_fp32")])
def test_stopped_twice_and_continued_is_bit_identical(moe, world, ds_config):
    apart = replace(moe, recipe=shared_out(moe.recipe, 2))
    differences, compared = differences_after_two_stops(apart, world, ds_config)
    assert differences == [] and compared == 6 + 6 + 3 * 4  # metrics and ledger lines, files of three checkpoints


@pytest.fixture(scope="module")
def straight(moe):
    """A run on two ranks that share out the experts, at ZeRO-2, with checkpoints at steps 2, 4 and 6."""
    folder = moe.new_folder("straight-moe")
    run_to_end(moe, resumable(shared_out(moe.recipe, 2)), folder, 2, "zero2_fp32")
    return folder


@pytest.mark.parametrize("world, peers, ds_config", [
    (1, 1, "zero1_fp32"), (2, 1, "zero3_fp32"), (4, 2, "zero3_fp32"), (4, 4, "zero0_fp32")])
def test_continued_on_other_ranks_and_peers_it_has_the_same_rows_and_losses(moe, straight, tmp_path, world, peers,
                                                                            ds_config):
    recipe, moved = resumable(shared_out(moe.recipe, peers, 1)), tmp_path / "moved"
    shutil.copytree(straight, moved)
    forget_after(moved, recipe, 2)
    recipe = replace(recipe, run=replace(recipe.run, dir=str(moved)))
    told = moe.ranks(world).run(training, recipe, ds_config)
    assert [of_rank.error for of_rank in told] == [None] * world
    changed = "changed since then: engine.expert_parallel: 2 -> " + str(peers)
    assert any(changed in line for line in told[0].lines) == (peers != 2)
    before, after = (RunFolder(folder / "run") for folder in (straight, moved))
    assert read_lines(before.ledger) == read_lines(after.ledger)
    for one, other in zip(read_lines(before.metrics), read_lines(after.metrics), strict=True):
        assert relative(other["loss"], one["loss"]) <= BOUND
        assert (other["lr"], other["tokens"]) == (one["lr"], one["tokens"])
    last = [load_file(run.checkpoints / "step_00000006/model.safetensors") for run in (before, after)]
    nudges = [name for name in last[0] if name.endswith("nudges")]
    assert len(nudges) == 2 and all(torch.equal(last[0][name], last[1][name]) for name in nudges)


def test_a_checkpoint_holds_all_experts_whole_under_the_models_own_names(moe, straight):
    model = moe.fresh_trainee()[0].model
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    nudges = {name: tuple(buffer.shape) for name, buffer in model.named_buffers() if name.endswith("nudges")}
    assert shapes["blocks.1.ff.experts.gate_up"] == (4, 32, 32) and len(nudges) == 2
    folder = straight / "run/checkpoints/step_00000006"
    for file, expected in (("model", shapes | nudges), ("optimizer-exp_avg", shapes), ("optimizer-exp_avg_sq", shapes)):
        tensors = load_file(folder / f"{file}.safetensors")
        assert {name: tuple(values.shape) for name, values in tensors.items()} == expected
        for name, values in tensors.items():
            if "experts" in name:  # none was left out, and none is another's copy
                assert all(expert.any() for expert in values)
                assert len({tuple(expert.flatten().tolist()) for expert in values}) == 4


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero3_fp32"])
def test_experts_taken_for_another_ranks_and_a_lost_nudge_are_named_on_loading(moe, straight, ds_config):
    recipe, folder = resumable(shared_out(moe.recipe, 2)), straight / "run/checkpoints/step_00000004"

    def said_of(harm):
        return moe.ranks(2).run(restored_with_harm, recipe, ds_config, folder, harm)

    for kind, said in said_of("none"):
        assert kind == "well"
        assert said.startswith("verified: 47,744 weights and 2 moments of each, 8 whole numbers that the model "
                               "counts (router.nudges), as saved at step 4")
    for harm, named in (("experts are another rank's", "weights of blocks.0.ff.experts.down: element 0 on rank 1 is"),
                        ("a nudge is lost", "the module's own blocks.0.ff.router.nudges: element 1 on rank 1 is")):
        assert [named in said for _, said in said_of(harm)] == [True, True], said_of(harm)


def watched(moe, peers, ds_config):
    """A run of four steps, validated and writing after the second and the fourth: its folder, what it said."""
    text = moe.new_folder("valid") / "valid.txt"
    text.write_text("one plus one is two\nand that is all\n" * 9)
    recipe = resumable(shared_out(moe.recipe, peers), (Source(path=str(text)),), steps=4)
    recipe = replace(recipe, log=replace(recipe.log, samples=2, prompt="def ", norms_every=2),
                     run=replace(recipe.run, dir=str(moe.new_folder("watched"))))
    told = moe.ranks(2).run(training, recipe, ds_config)
    assert [of_rank.error for of_rank in told] == [None, None]
    return RunFolder(moe.folder / recipe.run.dir / "run"), "\n".join(told[0].lines)


def board_of(run):
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    norms = {(tag, event.step): event.value for tag in board.Tags()["scalars"]
             if "norm" in tag and "grad_norm" not in tag for event in board.Scalars(tag)}
    texts = {(tag, event.step): event.tensor_proto.string_val[0].decode()
             for tag in board.Tags()["tensors"] if tag.startswith("samples") for event in board.Tensors(tag)}
    return norms, texts


@pytest.mark.parametrize("ds_config", ["zero0_fp32", "zero3_fp32"])
def test_all_ranks_validate_and_write_together_what_one_would(moe, whole_model, ds_config):
    (run, said), (expected, (norms, texts), said_then) = watched(moe, 2, ds_config), whole_model
    why = "each layer is gathered" if ds_config.startswith("zero3") else "experts on other ranks are asked"
    assert "every 2 ranks share out the experts" in said
    assert f"written by all ranks together, which is slow: {why} for each token; none with log.samples=0" in said
    assert "share out" not in said_then and "written by all ranks" not in said_then
    lines, lines_then = read_lines(run.metrics), read_lines(expected.metrics)
    assert [line["step"] for line in lines if "split" in line] == [2, 4]
    assert largest(relative(a["loss"], b["loss"]) for a, b in zip(lines, lines_then, strict=True)) <= BOUND
    norms_now, texts_now = board_of(run)
    assert norms_now.keys() == norms.keys() and norms
    assert largest(abs(norms_now[key] - norms[key]) / (1e-4 + norms[key]) for key in norms) <= 1e-3
    assert texts_now.keys() == texts.keys() and len(texts) == 4
    assert sum(texts_now[key] == texts[key] for key in texts) >= 3  # an almost tied token may fall the other way


@pytest.fixture(scope="module")
def whole_model(moe):
    """The same on two ranks that both have all experts."""
    run, said = watched(moe, 1, "zero1_fp32")
    return run, board_of(run), said


@pytest.mark.parametrize("stage", [2, 3])
def test_muon_updates_the_matrices_and_adamw_the_experts_wherever_they_are(moe, by_muon_alone, stage):
    recipe, alone = by_muon_alone
    for seen in moe.ranks(2).run(steps_with_experts, shared_out(recipe, 2), f"zero{stage}_fp32", 8):
        same = steps_before_a_tie(seen, alone)
        assert same >= 4 and seen.rows == alone.rows and seen.nudges[:same] == alone.nudges[:same]
        pairs = list(zip(seen.records, alone.records, strict=True))[:same]
        assert largest(relative(a["loss"], b["loss"]) for a, b in pairs) <= BOUND


@pytest.fixture(scope="module")
def by_muon_alone(moe):
    recipe = replace(moe.recipe, optim=replace(moe.recipe.optim, name="muon", muon_lr=5e-3))
    return recipe, moe.ranks(1).run(steps_with_experts, shared_out(recipe, 1), "zero1_fp32", 8)[0]

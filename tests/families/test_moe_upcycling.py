"""A dense model becomes one with experts: the same function at first, at any stage, and one line where it cannot be."""

from __future__ import annotations

import shutil

import pytest
import torch
from moe_small import DENSE, MOE, board_of, end_of, lay_out_moe, numbers, run_on
from small_run import read_lines

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families.upcycling import taken_over
from dstrain.runtime.checkpoint.tensor_file import TensorFile
from dstrain.runtime.rank_group import RankGroup

FROM_DENSE = ("model.upcycle=runs/dense", "model.dropout=0.0")
HARDLY = ("run.steps=1", "valid.every=1", "optim.lr=1e-12", "checkpoint.every=1", "schedule.warmup_steps=0")
"""a first validation of what was taken over: the one step before it changes nothing"""


@pytest.fixture(scope="module")
def two():
    with RankGroup(2) as group:
        yield group


@pytest.fixture(scope="module")
def trained(tmp_path_factory, two):
    folder = lay_out_moe(tmp_path_factory.mktemp("dense"))
    (folder / "small.yaml").write_text(DENSE)
    run_on(two, folder, "run.name=dense", "run.steps=30", "valid.every=30", "checkpoint.every=30")
    (folder / "small.yaml").write_text(MOE)
    return folder


@pytest.fixture
def folder(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def next_losses(folder, name: str) -> list[float]:
    lines = [line for line in read_lines(folder / f"runs/{name}/metrics.jsonl") if "split" in line]
    return [line.get("terms", {"next": line["loss"]})["next"] for line in lines]


@pytest.mark.ranks
@pytest.mark.parametrize("stage, overrides", [
    (0, ()), (3, ("model.shared_experts=1",)), (2, ("model.every=2", "model.top_k=3")),
    (1, ("engine.expert_parallel=2", "model.shared_experts=2"))])
def test_it_begins_as_the_function_that_the_dense_model_is(folder, two, stage, overrides):
    run_on(two, folder, *FROM_DENSE, *HARDLY, f"run.name=at{stage}", *overrides, engine=f"zero{stage}_fp32")
    assert next_losses(folder, f"at{stage}")[0] == pytest.approx(next_losses(folder, "dense")[-1], rel=1e-6)


@pytest.mark.ranks
def test_training_goes_on_from_there_and_needs_the_dense_run_no_more(folder, two):
    steps = ("run.steps=20", "valid.every=10", "checkpoint.every=10", "log.every=20")
    said = run_on(two, folder, *FROM_DENSE, "run.name=grown", *steps)
    assert "began as copies of a feed-forward in runs/dense" in said
    assert "begins with runs/dense/checkpoints/step_" in said
    losses, dense = next_losses(folder, "grown"), next_losses(folder, "dense")[-1]
    assert losses[1] < losses[0] < dense  # as a matter of course after 10 and 20 more steps
    experts = TensorFile(folder / "runs/grown/checkpoints/step_00000020/model.safetensors")
    down_ECF = experts.tensor("blocks.0.ff.experts.down")
    assert all(not torch.equal(down_ECF[0], other) for other in down_ECF[1:])  # copies no more
    shutil.move(folder / "runs/dense", folder / "runs/away")
    try:
        said = run_on(two, folder, *FROM_DENSE, "run.name=grown", *steps, "run.steps=21")  # the same command
        assert "goes on from" in said and "done: 21 steps" in said
    finally:
        shutil.move(folder / "runs/away", folder / "runs/dense")
    assert [step for step, _ in numbers(board_of(folder / "runs/grown"), "train/loss")] == [*range(1, 22)]


@pytest.mark.parametrize("shared", [0, 1, 3])
def test_each_copy_gives_what_the_dense_layer_gives_over_the_number_of_those_that_see_a_token(folder, shared):
    recipe = load_recipe("small.yaml", [*FROM_DENSE, f"model.shared_experts={shared}"])
    weight_of = taken_over(recipe, load_tokenizer("bytes"))
    dense = TensorFile(folder / "runs/dense/checkpoints/step_00000030/model.safetensors")
    x_NC = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))

    def out(gate_up, down):
        gate, up = (x_NC @ gate_up.T).chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up) @ down.T

    whole = out(*(dense.tensor(f"blocks.1.ff.{kind}.weight") for kind in ("gate_up", "down")))
    experts = weight_of("blocks.1.ff.experts.gate_up", (4, 128, 32)), weight_of("blocks.1.ff.experts.down", (4, 32, 64))
    total = out(experts[0][2], experts[1][2])
    if shared:
        total = total + out(weight_of("blocks.1.ff.shared.gate_up.weight", (128 * shared, 32)),
                            weight_of("blocks.1.ff.shared.down.weight", (32, 64 * shared)))
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)
    assert weight_of("blocks.1.ff.router.weight", (4, 32)) is weight_of("further.0.norm.weight", (32,)) is None


@pytest.mark.parametrize("dense, overrides, message", [
    ("", ["model.expert_ff=48"],
     "model.upcycle: this recipe has model.expert_ff=48, but .*step_00000030 was trained with other sizes; "
     "set model.expert_ff=64"),
    ("", ["model.width=48", "model.heads=3", "model.positions=learned"],
     "set model.width=32 model.heads=2 model.positions=rotary$"),
    ("", ["model.ff=65", "model.every=2"], "has model.ff=65, but .*; set model.ff=64"),
    ("", ["model.upcycle=runs/none"], "runs/none is not there .*give the folder of a trained run"),
    ("", ["model.upcycle=runs"], "runs has no checkpoint"),
    ("", ["model.code=mine.py:Mine"], "this recipe has a model class of its own .*built-in"),
    ("block: swiglu|block: gelu", [], "has model.block=gelu, but experts are SwiGLU .*model.block=swiglu"),
    ("family: lm|family: moe", [], "is of the family moe, but only a trained lm"),
    ("positions: rotary|positions: learned", ["model.positions=learned", "batch.length=64"],
     "batch.length is 64, but .* has learned positions for 32; set batch.length=32"),
])
def test_what_does_not_fit_is_refused_in_a_line_that_says_what_is_needed(folder, tmp_path, monkeypatch, dense,
                                                                         overrides, message):
    place = tmp_path / "runs/dense/checkpoints/step_00000030"
    shutil.copytree("runs/dense/checkpoints/step_00000030", place)
    if dense:
        text = (place / "recipe.yaml").read_text()
        changed = text.replace(*dense.split("|"))
        if "family: moe" in dense:
            changed = (folder / "runs/dense/recipe.yaml").read_text() and MOE
        assert changed != text
        (place / "recipe.yaml").write_text(changed)
        monkeypatch.setattr("dstrain.train.other_run.verify", lambda checkpoint: None)
    shutil.copy("small.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("small.yaml", [*FROM_DENSE, *overrides])
    with pytest.raises(UserError, match=message) as mistake:
        taken_over(recipe, load_tokenizer("bytes"))
    assert "\n" not in str(mistake.value)


def test_another_vocabulary_and_a_damaged_checkpoint_are_refused(folder, tmp_path):
    recipe = load_recipe("small.yaml", [*FROM_DENSE])
    other = load_tokenizer("bytes")
    other.vocab_size = 300
    with pytest.raises(UserError, match="the tokenizer bytes is not the one .*set tokenizer=runs/dense/checkpoints"):
        taken_over(recipe, other)
    place = shutil.copytree("runs/dense/checkpoints/step_00000030", tmp_path / "step_00000030")
    with open(place / "model.safetensors", "r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 8)
    recipe = load_recipe("small.yaml", [f"model.upcycle={place}"])
    with pytest.raises(UserError, match="step_00000030 is damaged: .*; give another of its run's checkpoints"):
        taken_over(recipe, load_tokenizer("bytes"))


@pytest.mark.ranks
def test_all_ranks_end_alike_before_an_engine_is_built_and_the_folder_is_as_it_was(folder, two):
    first, second = two.run(end_of, str(folder), [*FROM_DENSE, "model.expert_ff=48", "run.name=refused"])
    assert first[0] == "UserError" and "set model.expert_ff=64" in first[1] and second[0] != "finished"
    assert not (folder / "runs/refused/checkpoints").exists()

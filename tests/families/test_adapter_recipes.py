"""A run of adapters beside a trained one: what it takes over, what it leaves, and one line where it cannot be."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest
import torch
from moe_small import run_on
from small_run import read_lines

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.families.adapting import base_weights
from dstrain.nn.adapters import is_adapter
from dstrain.runtime.checkpoint.tensor_file import TensorFile
from dstrain.runtime.rank_group import RankGroup

ARC = """# puzzles, in seconds
family: arc
model: {kind: encoder-decoder, width: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, ff: 64}
data: {train: [{embedded: puzzles, part: train}]}
batch: {tokens: 1024, micro_tokens: 512, window: 32, length: 128}
optim: {lr: 3.0e-3}
schedule: {warmup_steps: 2}
run: {name: base, steps: 4}
checkpoint: {every: 2, keep: 9}
log: {every: 1, samples: 0, norms_every: 1}
"""
ADAPTERS = ("run.name=adapters", "model.adapt=runs/base", "model.adapter_rank=4")


@pytest.fixture(scope="module")
def two():
    with RankGroup(2) as group:
        yield group


@pytest.fixture(scope="module")
def trained(tmp_path_factory, two):
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "small.yaml").write_text(ARC)
    run_on(two, folder)
    return folder


@pytest.fixture
def folder(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def weights(folder, name, step):
    file = TensorFile(folder / f"runs/{name}/checkpoints/step_{step:08d}/model.safetensors")
    return {name: file.tensor(name) for name in file.shapes}


@pytest.mark.ranks
def test_adapters_are_trained_beside_a_run_and_need_it_no_more(folder, two):
    # Without decay an adapter's first matrix rests in the first step, which is no fault.
    said = run_on(two, folder, *ADAPTERS, "optim.weight_decay=0.0", engine="zero3_fp32")
    base, after = weights(folder, "base", 4), weights(folder, "adapters", 4)
    trained = {name: weight for name, weight in after.items() if is_adapter(name)}
    # Of 1 encoder layer (qkv, out, up, down) and 1 decoder layer (the same, and q, kv, out): 11 layers of rank 4.
    sizes = [32 + 96, 32 + 32, 32 + 64, 64 + 32] * 2 + [32 + 32, 32 + 64, 32 + 32]
    assert sum(weight.numel() for weight in trained.values()) == 4 * sum(sizes) == 3_968
    assert set(after) == set(base) | set(trained) and all(bool(weight.any()) for weight in trained.values())
    assert all(torch.equal(after[name], weight) for name, weight in base.items())
    whole = sum(weight.numel() for weight in after.values())
    assert f"{whole:,}), 0.004M of them trained (3,968), the others stay as they are" in said
    assert f"for 3,968 parameters (the other {whole - 3968:,} stay as they are)" in said
    assert "adapters stand beside runs/base/checkpoints/step_00000004" in said and "do not move" not in said
    shutil.move(folder / "runs/base", folder / "runs/away")
    try:
        said = run_on(two, folder, *ADAPTERS, "optim.weight_decay=0.0", "run.steps=5")
        assert "2 moments of the 3,968 trained, as saved at step 4" in said and "done: 5 steps" in said
    finally:
        shutil.move(folder / "runs/away", folder / "runs/base")
    assert [line["step"] for line in read_lines(folder / "runs/adapters/metrics.jsonl")] == [1, 2, 3, 4, 5]
    after = weights(folder, "adapters", 5)
    assert all(torch.equal(after[name], weight) for name, weight in base.items())


@pytest.mark.ranks
def test_it_begins_as_the_function_that_the_base_is(folder, two):
    """The first step of new adapters has the loss that the base has on the same rows."""
    run_on(two, folder, *ADAPTERS, "run.name=first", "run.steps=1", "schedule.warmup_steps=0", "run.seed=9")
    run_on(two, folder, "run.name=other", "run.steps=1", "schedule.warmup_steps=0", "run.seed=9")
    first, other = (read_lines(folder / f"runs/{name}/metrics.jsonl")[0]["loss"] for name in ("first", "other"))
    base = read_lines(folder / "runs/base/metrics.jsonl")[-1]["loss"]
    assert abs(first - base) < abs(first - other) and first < other


@pytest.mark.parametrize("overrides, said", [
    (("model.adapt=runs/nowhere",), "model.adapt: runs/nowhere is not there"),
    (("model.kind=champion",), "this recipe has model.kind=champion, but .* is a encoder-decoder; set model.kind="),
    (("model.width=64",), "model.width=64, but .* other sizes; set model.width=32"),
    (("model.block=swiglu",), "set model.block=gelu"),
    (("model.code=own.py:Own",), "own.py:Own, but .* was trained with the built-in model; set model.code=null"),
])
def test_a_run_that_does_not_fit_is_refused_in_one_line(folder, overrides, said):
    (folder / "own.py").write_text("class Own: pass\n")
    with pytest.raises(UserError, match=said) as error:
        base_weights(load_recipe("small.yaml", [*ADAPTERS, *overrides]), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("overrides, said", [
    (("model.adapter_rank=4",), "model.adapter_rank is 4, but there is no model.adapt"),
    (("model.adapt=runs/base",), "model.adapter_rank is 0, so nothing would be trained"),
    ((*ADAPTERS, "optim.name=muon"), "set optim.name=adamw"),
    ((*ADAPTERS, "model.adapt="), "model.adapt"),
])
def test_rank_and_run_go_together(folder, overrides, said):
    with pytest.raises(UserError, match=said):
        load_recipe("small.yaml", overrides)


@pytest.mark.ranks
def test_adapters_cannot_stand_beside_adapters(folder, two):
    run_on(two, folder, *ADAPTERS, "run.name=ones", "run.steps=1", "schedule.warmup_steps=0")
    with pytest.raises(UserError, match="is made of adapters itself, beside runs/base; give a run that was trained"):
        base_weights(load_recipe("small.yaml", [*ADAPTERS, "model.adapt=runs/ones"]), None)


@pytest.mark.ranks
def test_another_rank_is_another_run_and_another_place_of_the_base_is_none(folder, two):
    run_on(two, folder, *ADAPTERS, "run.name=fixed", "run.steps=1", "schedule.warmup_steps=0")
    with pytest.raises(Exception, match="model.adapter_rank is 2 in the recipe, but 4 in .*another run"):
        run_on(two, folder, *ADAPTERS, "run.name=fixed", "run.steps=2", "schedule.warmup_steps=0",
               "model.adapter_rank=2")


def test_the_doctor_proves_the_model_without_adapters_and_says_so(folder):
    with closing(Case.of(load_recipe("small.yaml", [*ADAPTERS]))) as case:
        assert case.not_proven == ("model.adapter_rank 4: proven without adapters, the whole model trained",)
        trainee, _ = case.fresh_trainee()
        assert all(parameter.requires_grad for parameter in trainee.parameters())
        assert not any(map(is_adapter, dict(trainee.named_parameters())))
    with closing(Case.of(load_recipe("small.yaml", []))) as case:
        assert case.not_proven == ()

"""torch.compile: once for all layers, never again during a run, and kept for the next start."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from compile_jobs import compilations, compiled_at

from dstrain.config.schema import Source
from dstrain.doctor.short_run import short_run
from dstrain.runtime.rank_group import RankError, RankGroup

pytestmark = pytest.mark.ranks
LAYERS = 4


def compiling(case, **model):
    recipe = replace(case.recipe, engine=replace(case.recipe.engine, compile=True))
    return replace(recipe, model=replace(recipe.model, **model))


@pytest.fixture
def deep(case, tmp_path):
    """Four layers; 8 rows in micro-batches of 3 have a filler row, 7 rows of validation text a ragged last batch."""
    text = tmp_path / "valid.txt"
    text.write_text("".join(f"{number:03d} " * 7 + "...\n" for number in range(7)))
    valid = (Source(path=str(text), documents="lines"),)
    recipe = replace(case.recipe, model=replace(case.recipe.model, layers=LAYERS),
                     batch=replace(case.recipe.batch, micro_rows=3))
    return replace(recipe, data=replace(recipe.data, valid=valid))


@pytest.mark.parametrize("ds_config, graphs", [("zero1_fp32", 1), ("zero3_fp32", 8)])
def test_all_layers_share_what_the_first_steps_and_the_first_validation_compile(deep, ds_config, graphs):
    """A graph a layer would be four times as many; and after 8 variants of one function torch gives up on it."""
    with RankGroup(1) as fresh:  # an earlier ZeRO-3 engine in the process would have put its own F.linear in place
        steps, = fresh.run(compilations, deep, ds_config)
    assert steps[0][0] == graphs
    assert steps[4] == steps[3] == steps[2]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
@pytest.mark.parametrize("ds_config, model, bound", [
    ("zero1_fp32", {"checkpoint_activations": True}, 1e-5), ("zero3_offload_param_bf16", {}, 5e-3)])
def test_ranks_that_start_together_fill_an_empty_folder_and_the_next_start_compiles_nothing(
        case, tmp_path, ds_config, model, bound):
    recipe = compiling(case, layers=1, **model)
    assert recipe.model.dropout > 0
    starts = []
    for _ in range(2):
        with RankGroup(2) as fresh:
            starts.append(fresh.run(compiled_at, str(tmp_path / "kept"), recipe, ds_config))
    first, second = starts
    assert sum(found["miss"] for _, found in first) > 0
    assert all(found["miss"] == 0 and found["hit"] > 0 for _, found in second)
    assert [loss for loss, _ in first] == [loss for loss, _ in second]
    uncompiled = replace(recipe, engine=replace(recipe.engine, compile=False))
    trace = case.ranks(2).run(short_run, uncompiled, ds_config, 2)[0]
    assert first[0][0] == pytest.approx(trace.losses[-1], rel=bound)


def test_a_folder_that_cannot_be_written_is_one_line_with_the_remedy(case, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RankError, match="engine.compile is on, but .*/file/kept.*cannot be written: Not a directory; "
                                        "set TORCHINDUCTOR_CACHE_DIR to another folder"):
        case.ranks(1).run(compiled_at, str(tmp_path / "file" / "kept"), compiling(case), "zero1_fp32")

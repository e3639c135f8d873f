"""torch.compile: once for all layers, never again during a run, and kept for the next start."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from compile_jobs import compilations, compiled_at

from dstrain.config.schema import Source
from dstrain.runtime.rank_group import RankError

pytestmark = pytest.mark.ranks
LAYERS = 4


def compiling(case, **model):
    recipe = replace(case.recipe, engine=replace(case.recipe.engine, compile=True))
    return replace(recipe, model=replace(recipe.model, **model))


@pytest.fixture
def deep(case, tmp_path):
    """Four layers; 8 rows in micro-batches of 3 have a filler row, and 7 rows of validation text a ragged last batch."""
    text = tmp_path / "valid.txt"
    text.write_text("".join(f"{number:03d} " * 7 + "...\n" for number in range(7)))
    valid = (Source(path=str(text), documents="lines"),)
    recipe = replace(case.recipe, model=replace(case.recipe.model, layers=LAYERS),
                     batch=replace(case.recipe.batch, micro_rows=3))
    return replace(recipe, data=replace(recipe.data, valid=valid))


@pytest.mark.parametrize("ds_config, graphs", [("zero1_fp32", 1), ("zero3_fp32", 8)])
def test_all_layers_share_what_the_first_steps_and_the_first_validation_compile(case, deep, ds_config, graphs):
    """A graph a layer would be four times as many; and after 8 variants of one function torch gives up on it."""
    for steps in case.ranks(1).run(compilations, deep, ds_config):
        assert steps[0][0] == graphs
        assert steps[4] == steps[3] == steps[2]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
@pytest.mark.parametrize("ds_config, model", [("zero1_bf16", {"checkpoint_activations": True}), ("zero3_fp32", {})])
def test_ranks_that_start_together_fill_an_empty_folder_and_the_next_start_compiles_nothing(
        case, tmp_path, ds_config, model):
    recipe = compiling(case, **model)
    assert recipe.model.dropout > 0
    first = case.ranks(2).run(compiled_at, str(tmp_path / "kept"), recipe, ds_config)
    second = case.ranks(2).run(compiled_at, str(tmp_path / "kept"), recipe, ds_config)
    assert sum(found["miss"] for _, found in first) > 0
    assert all(found["miss"] == 0 and found["hit"] > 0 for _, found in second)
    assert [loss for loss, _ in first] == [loss for loss, _ in second]


def test_a_folder_that_cannot_be_written_is_one_line_with_the_remedy(case, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RankError, match="engine.compile is on, but .*/file/kept.*cannot be written: Not a directory; "
                                        "set TORCHINDUCTOR_CACHE_DIR to another folder"):
        case.ranks(1).run(compiled_at, str(tmp_path / "file" / "kept"), compiling(case), "zero1_fp32")

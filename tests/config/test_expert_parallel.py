"""Ranks that share out experts: as many as divide the ranks, and DeepSpeed with what it needs for them."""

from __future__ import annotations

import json

import pytest

from dstrain.config.engine_json import engine_json
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe


def settings_of(world, *overrides):
    return engine_json(load_recipe("moe-quickstart", overrides), world, "cpu")


@pytest.mark.parametrize("world, peers, remedy", [
    (1, 2, "use a multiple of 2 ranks, or set engine.expert_parallel to 1, as with 1 rank(s) and 8 experts nothing "
           "else goes (1: every rank has all experts)"),
    (6, 4, "use a multiple of 4 ranks, or set engine.expert_parallel to one of 1, 2 (1:")])  # 3 divides no 8 experts
def test_ranks_that_cannot_be_divided_are_refused_before_any_is_busy(world, peers, remedy):
    with pytest.raises(UserError) as caught:
        settings_of(world, f"engine.expert_parallel={peers}")
    assert str(caught.value).startswith(f"{world} rank(s), but engine.expert_parallel is {peers}")
    assert remedy in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("stage, plain, apart", [(1, True, True), (2, False, True), (3, True, True)])
def test_deepspeed_scatters_where_experts_live_apart(stage, plain, apart):
    config = f"engine.config=zero{stage}_fp32"
    assert settings_of(2, config)["zero_optimization"]["reduce_scatter"] is plain
    assert settings_of(2, config, "engine.expert_parallel=2")["zero_optimization"]["reduce_scatter"] is apart


@pytest.mark.parametrize("stage, refused", [(1, True), (2, True), (3, False)])
def test_a_file_that_forbids_it_is_refused_where_it_matters(tmp_path, stage, refused):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage, "reduce_scatter": False}}))
    assert settings_of(2, f"engine.config={path}")["zero_optimization"]["reduce_scatter"] is False
    if refused:
        with pytest.raises(UserError, match="reduce_scatter is false, but DeepSpeed needs it"):
            settings_of(2, f"engine.config={path}", "engine.expert_parallel=2")
    else:
        settings_of(2, f"engine.config={path}", "engine.expert_parallel=2")

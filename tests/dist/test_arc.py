"""The promise for puzzles: rows, losses and gradients on any ranks, stage and micro-batch; resuming within a window."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace

import pytest

from dstrain.config.engine_json import engine_json
from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe
from dstrain.doctor.case import Case
from dstrain.doctor.proofs.gradient import difference
from dstrain.doctor.proofs.resume import differences_after_two_stops, forget_after, resumable, run_to_end
from dstrain.doctor.proofs.same_curve import compare
from dstrain.doctor.reference import reference_step
from dstrain.doctor.short_run import short_run, whole
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.runtime.generating import all_ranks_generate
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks
STEPS, TOLERANCE = 20, 1e-5
LAYERS = {"decoder": "layers: 2", "encoder-decoder": "encoder_layers: 1, decoder_layers: 2",
          "champion": "encoder_layers: 2, decoder_layers: 1"}


def small(kind: str) -> Recipe:
    return load_recipe("arc-quickstart", (
        f"model={{kind: {kind}, width: 32, heads: 2, ff: 64, dropout: 0.1, {LAYERS[kind]}}}",
        "batch={tokens: 1600, micro_tokens: 1600, window: 32, length: 400}", "schedule.warmup_steps=2",
        "optim.name=adamw", "run.steps=20", "log.samples=0", "valid.views=2"))


@pytest.fixture(scope="module")
def puzzles(tmp_path_factory):
    """arc-quickstart in small, with AdamW: some 10 to 20 puzzles a step in windows of 32, dropout on."""
    folder = tmp_path_factory.mktemp("arc")
    recipe = small("champion")
    (folder / "data").mkdir()
    data = family_of(recipe).anatomy.shrink(recipe, folder / "data").data
    case = Case(replace(recipe, data=data), folder)
    yield case
    case.close()


def of_kind(case: Case, kind: str) -> Case:
    """On the same ranks and puzzles."""
    return replace(case, recipe=replace(case.recipe, model=small(kind).model))


def twenty_steps(case: Case, world: int, micro_tokens: int, ds_config: str):
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, micro_tokens=micro_tokens))
    return case.ranks(world).run(short_run, recipe, ds_config, STEPS, False)[0]


@pytest.mark.parametrize("kind, shapes", [
    ("champion", ((1, 500, 1), (2, 400, 0), (2, 400, 3), (3, 500, 2))), ("decoder", ((2, 400, 3),)),
    ("encoder-decoder", ((3, 300, 1),))])
def test_twenty_losses_and_all_rows_of_puzzles_are_those_of_one_rank(puzzles, kind, shapes):
    puzzles = of_kind(puzzles, kind)
    one_rank = twenty_steps(puzzles, 1, 1600, "zero1_fp32")
    assert one_rank.losses[-1] < one_rank.losses[0] - 0.1
    for world, micro_tokens, stage in shapes:
        trace = twenty_steps(puzzles, world, micro_tokens, f"zero{stage}_fp32")
        error, other_rows = compare(one_rank, [trace])
        assert len(trace.losses) == STEPS and other_rows == 0 and error <= TOLERANCE, (world, micro_tokens, stage)


@pytest.mark.parametrize("world, micro_tokens, stage", [(2, 500, 2), (2, 500, 3)])
def test_the_gradient_of_a_step_of_puzzles_is_that_of_one_process_in_float64(puzzles, stage, world, micro_tokens):
    recipe = replace(puzzles.recipe, optim=replace(puzzles.recipe.optim, clip=0.0))
    _, expected = reference_step(recipe, ragged=False)
    recipe = replace(recipe, batch=replace(recipe.batch, micro_tokens=micro_tokens))
    traces = puzzles.ranks(world).run(short_run, recipe, f"zero{stage}_fp32", 1, False)
    found = whole([trace.gradient for trace in traces], {name: g.shape for name, g in expected.items()})
    assert all(gradient.any() for gradient in expected.values())
    assert difference(found, expected) <= TOLERANCE


@pytest.mark.parametrize("world, ds_config", [(1, "zero1_fp32"), (3, "zero3_fp32"), (2, "zero2_bf16")])
def test_puzzles_stopped_twice_within_a_window_go_on_bit_identically(puzzles, world, ds_config):
    differences, compared = differences_after_two_stops(puzzles, world, ds_config, puzzles.recipe.data.valid)
    assert differences == [] and compared == 9 + 6 + 3 * 4  # 6 steps, 3 validations, ledger, files of 3 checkpoints


@pytest.mark.parametrize("world, ds_config, micro_tokens", [(1, "zero3_fp32", 1600), (3, "zero1_fp32", 400)])
def test_puzzles_continued_on_another_shape_have_the_same_rows_losses_and_scores(puzzles, tmp_path, world, ds_config,
                                                                                 micro_tokens):
    recipe = resumable(puzzles.recipe)
    run_to_end(puzzles, recipe, tmp_path / "straight", 2, "zero2_fp32")
    shutil.copytree(tmp_path / "straight", tmp_path / "moved")
    forget_after(tmp_path / "moved", recipe, 2)
    other = replace(recipe, batch=replace(recipe.batch, micro_tokens=micro_tokens))
    run_to_end(puzzles, other, tmp_path / "moved", world, ds_config)
    before, after = (RunFolder(tmp_path / name / "run") for name in ("straight", "moved"))
    assert read_lines(before.ledger) == read_lines(after.ledger)
    for one, there in zip(read_lines(before.metrics), read_lines(after.metrics), strict=True):
        assert there["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert (there["lr"], there["tokens"]) == (one["lr"], one["tokens"])


@pytest.mark.parametrize("stage", [0, 3])
def test_ranks_without_a_single_puzzle_take_part_in_every_step(puzzles, stage):
    """One to four puzzles a step on four ranks: some have filler rows alone, in every step others."""
    recipe = replace(puzzles.recipe, batch=replace(puzzles.recipe.batch, tokens=250, micro_tokens=250))
    alone, = puzzles.ranks(1).run(short_run, recipe, "zero1_fp32", 8, False)
    among_four = puzzles.ranks(4).run(short_run, recipe, f"zero{stage}_fp32", 8, False)[0]
    error, other_rows = compare(alone, [among_four])
    assert other_rows == 0 and error <= TOLERANCE


def generated(ranks: Ranks, recipe: Recipe, ds_config: str) -> tuple[dict | None, dict | None]:
    """Scores of what the untrained model answers, and what comes when the last rank must leave."""
    family = family_of(recipe)
    tokenizer = family.open_tokenizer(recipe, None)
    engine = Engine(lambda: family.build_trainee(recipe, tokenizer), lambda trainee: lambda name, shape: (
        family.initial_weight(trainee.model, name, shape, recipe.run.seed)),
        recipe, engine_json(recipe, ranks.world, "cpu", ds_config), ranks)
    alone = engine.holds_whole_model
    with contextlib.nullcontext() if alone else all_ranks_generate(engine):
        found = [family.generated_scores(engine.model, tokenizer, recipe, ranks, alone, must_leave)
                 for must_leave in (lambda: False, lambda: ranks.rank == ranks.world - 1)]
    engine.close()
    return tuple(found)


def test_generated_scores_of_puzzles_do_not_depend_on_ranks_or_stage_and_all_break_off_together(puzzles):
    (expected, left), = puzzles.ranks(1).run(generated, puzzles.recipe, "zero1_fp32")
    assert left is None and expected["cell_accuracy"] > 0 and 0 <= expected["copy_baseline"] < 1
    for world, ds_config in ((2, "zero1_fp32"), (3, "zero2_fp32"), (2, "zero3_fp32")):
        assert puzzles.ranks(world).run(generated, puzzles.recipe, ds_config) == [(expected, None)] * world

"""The promise for pairs: rows, losses and gradients on any ranks, stage and micro-batch; resuming within a window."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from translate_case import generated

from dstrain.config.load import load_recipe
from dstrain.config.translate import PairSource
from dstrain.data.reading.spelled_numbers import english, german
from dstrain.doctor.case import Case
from dstrain.doctor.proofs.gradient import difference
from dstrain.doctor.proofs.resume import differences_after_two_stops, forget_after, resumable, run_to_end
from dstrain.doctor.proofs.same_curve import compare
from dstrain.doctor.reference import reference_step
from dstrain.doctor.short_run import short_run, whole
from dstrain.families import family_of
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks
STEPS, TOLERANCE = 20, 1e-5
SMALL = ("model={width: 32, heads: 2, encoder_layers: 2, decoder_layers: 2, ff: 64, dropout: 0.1}",
         "objective.label_smoothing=0.1", "batch={tokens: 400, micro_tokens: 400, window: 64, length: 60}",
         "schedule.warmup_steps=2", "run.steps=20", "log.samples=0")


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """numbers-en-de in small: about 16 pairs a step in windows of 64, dropout and label smoothing on, bpe for both."""
    folder = tmp_path_factory.mktemp("translate")
    recipe = load_recipe("numbers-en-de", SMALL)
    family_of(recipe).open_tokenizer(recipe, None, lambda line: None).save(folder / "tokenizer")
    (folder / "data").mkdir()
    data = family_of(recipe).anatomy.shrink(recipe, folder / "data").data  # 600 pairs are read in no time
    small = Case(replace(recipe, tokenizer=str(folder / "tokenizer"), data=data), folder)
    yield small
    small.close()


def twenty_steps(case: Case, world: int, micro_tokens: int, ds_config: str):
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, micro_tokens=micro_tokens))
    return case.ranks(world).run(short_run, recipe, ds_config, STEPS, False)[0]


@pytest.fixture(scope="module")
def one_rank(translator):
    return twenty_steps(translator, 1, 400, "zero1_fp32")


@pytest.mark.parametrize("world, micro_tokens, stage", [
    (1, 130, 1), (2, 400, 2), (2, 100, 0), (2, 100, 3), (3, 130, 0), (3, 130, 1), (3, 130, 2), (3, 130, 3), (4, 60, 1),
    (4, 60, 3)])
def test_twenty_losses_and_all_rows_of_pairs_are_those_of_one_rank(translator, one_rank, stage, world, micro_tokens):
    trace = twenty_steps(translator, world, micro_tokens, f"zero{stage}_fp32")
    error, other_rows = compare(one_rank, [trace])
    assert len(trace.losses) == STEPS and other_rows == 0
    assert error <= TOLERANCE
    assert trace.losses[-1] < trace.losses[0] - 0.5  # and it learns: both terms have gradients


@pytest.mark.parametrize("world, micro_tokens, stage", [
    (1, 400, 1), (2, 130, 0), (2, 130, 1), (2, 130, 2), (2, 130, 3), (4, 60, 3)])
def test_the_gradient_of_a_step_of_pairs_is_that_of_one_process_in_float64(translator, stage, world, micro_tokens):
    recipe = replace(translator.recipe, optim=replace(translator.recipe.optim, clip=0.0))
    _, expected = reference_step(recipe, ragged=False)
    recipe = replace(recipe, batch=replace(recipe.batch, micro_tokens=micro_tokens))
    traces = translator.ranks(world).run(short_run, recipe, f"zero{stage}_fp32", 1, False)
    found = whole([trace.gradient for trace in traces], {name: g.shape for name, g in expected.items()})
    assert all(gradient.any() for gradient in expected.values())
    assert difference(found, expected) <= TOLERANCE


@pytest.mark.parametrize("world, ds_config", [(1, "zero1_fp32"), (2, "zero2_fp32"), (3, "zero3_fp32"),
                                              (2, "zero1_bf16")])
def test_a_translator_stopped_twice_within_a_window_goes_on_bit_identically(translator, world, ds_config):
    valid = load_recipe("numbers-en-de", SMALL).data.valid
    few = Case(replace(translator.recipe, valid=replace(translator.recipe.valid, translate=False)), translator.folder,
               translator.groups)
    differences, compared = differences_after_two_stops(few, world, ds_config, valid)
    assert differences == [] and compared == 9 + 6 + 3 * 4  # 6 steps, 3 validations, ledger, files of 3 checkpoints


@pytest.mark.parametrize("world, ds_config, micro_tokens", [(1, "zero3_fp32", 400), (3, "zero1_fp32", 90)])
def test_a_translator_continued_on_another_shape_has_the_same_rows_and_losses(translator, tmp_path, world, ds_config,
                                                                              micro_tokens):
    recipe = resumable(translator.recipe)
    run_to_end(translator, recipe, tmp_path / "straight", 2, "zero2_fp32")
    shutil.copytree(tmp_path / "straight", tmp_path / "moved")
    forget_after(tmp_path / "moved", recipe, 2)
    other = replace(recipe, batch=replace(recipe.batch, micro_tokens=micro_tokens))
    run_to_end(translator, other, tmp_path / "moved", world, ds_config)
    before, after = (RunFolder(tmp_path / name / "run") for name in ("straight", "moved"))
    assert read_lines(before.ledger) == read_lines(after.ledger)
    for one, there in zip(read_lines(before.metrics), read_lines(after.metrics), strict=True):
        assert there["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert (there["lr"], there["tokens"]) == (one["lr"], one["tokens"])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_ranks_without_a_single_pair_take_part_in_every_step(translator, stage):
    """One to three pairs a step on four ranks: some have filler rows alone, in every step others."""
    recipe = replace(translator.recipe, batch=replace(translator.recipe.batch, tokens=60, micro_tokens=60))
    alone, = translator.ranks(1).run(short_run, recipe, "zero1_fp32", 8, False)
    among_four = translator.ranks(4).run(short_run, recipe, f"zero{stage}_fp32", 8, False)[0]
    assert all(line["scored"] <= 60 for line in alone.ledger)
    error, other_rows = compare(alone, [among_four])
    assert other_rows == 0 and error <= TOLERANCE


def test_generated_scores_do_not_depend_on_ranks_or_stage_and_all_break_off_together(translator, tmp_path):
    """70 lines, two batches of 64 at most: on three ranks one has nothing to translate."""
    for side, spelled in (("en", english), ("de", german)):
        (tmp_path / f"valid.{side}").write_text("".join(f"{spelled(number * 37)}\n" for number in range(70)))
    valid = PairSource(source_path=str(tmp_path / "valid.en"), target_path=str(tmp_path / "valid.de"))
    recipe = replace(translator.recipe, data=replace(translator.recipe.data, valid=(valid,)))
    (expected, left), = translator.ranks(1).run(generated, recipe, "zero1_fp32")
    assert len(expected["written"]) == 70 and len(set(expected["written"])) > 20 and left is None
    assert expected["exact"] == 0 and "nrefs:1" in expected["bleu_signature"]
    for world, ds_config in ((2, "zero1_fp32"), (3, "zero2_fp32"), (2, "zero3_fp32")):
        assert translator.ranks(world).run(generated, recipe, ds_config) == [(expected, None)] * world

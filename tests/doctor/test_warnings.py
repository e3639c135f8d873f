"""Figures that a user is shown before a run: each by numbers that a reader can check, and advice where it is off."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from small_run import lay_out

from dstrain.config.engine_json import engine_json
from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.warnings import disk, environment, memory, proportions, sizes, speed, text
from dstrain.doctor.warnings.all_figures import THEMES, all_figures
from dstrain.doctor.warnings.look import Look, look_at


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Look:
    """Of a small recipe, whose text is words of three letters."""
    place = lay_out(tmp_path_factory.mktemp("seen"))
    (place / "words.txt").write_text(("abc " * 15 + "abc\n") * 400)
    source = f"[{{path: {place}/words.txt, documents: lines}}]"
    recipe = load_recipe(str(place / "small.yaml"), [f"data.train={source}", f"data.valid={source}"])
    case = Case.of(recipe)
    try:
        yield look_at(recipe, case, place)
    finally:
        case.close()


def one(theme, name: str, look: Look):
    figure, = [figure for figure in theme.figures(look) if figure.name == name]
    return figure


def with_totals(look: Look, **totals) -> Look:
    return replace(look, steps=1, totals=look.totals | totals)


def test_what_is_looked_at_is_the_recipe_at_its_own_size(seen):
    attention, feed_forward, norms = 4 * (32 * 32 + 32), 2 * 32 * 64 + 64 + 32, 4 * 32
    assert seen.parameters == 257 * 32 + 2 * (attention + feed_forward + norms) + 2 * 32
    assert seen.totals["scored"] == seen.steps * 8 * 32 and seen.full_pass.positions == 4 * 32
    assert seen.full_pass.seconds > 0 and seen.full_pass.saved_bytes > 4 * 32 * 32 * 4  # a hidden state at the least


def test_tokens_per_parameter_and_epochs_are_the_runs(seen):
    look = with_totals(replace(seen, parameters=1_000, bytes_a_target=1.0), scored=250)
    size, epochs = one(sizes, "size", look), one(sizes, "epochs", look)
    assert "1,000 parameters, 1,500 targets in 6 steps: 1.5 per parameter" in size.figure and size.advice
    assert "about 0.059 over" in epochs.figure and not epochs.advice  # 1,500 bytes of 400 lines of 64
    assert not one(sizes, "size", replace(look, parameters=100)).advice
    assert one(sizes, "epochs", with_totals(look, scored=250_000)).advice


@pytest.mark.parametrize("steps, advised", [(0, "AdamW's first updates"), (1, ""), (3, "more than a fifth")])
def test_a_warm_up_is_a_share_of_the_run(seen, steps, advised):
    schedule = replace(seen.recipe.schedule, warmup_steps=steps)
    run = replace(seen.recipe.run, steps=10)
    found = one(sizes, "warm-up", replace(seen, recipe=replace(seen.recipe, schedule=schedule, run=run)))
    assert f"{steps} of 10 steps ({10 * steps}.0 %)" in found.figure and advised in found.advice
    assert bool(found.advice) == bool(advised)


def test_words_are_counted_in_the_text_that_is_scored(seen):
    assert 3.8 < seen.totals["scored"] / seen.words < 4.05  # three letters and a space; rows cut a few words in two
    found = one(text, "tokenizer", seen)
    assert "bytes a token" in found.figure and "bpe" in found.advice
    assert not one(text, "tokenizer", replace(seen, words=seen.totals["scored"])).advice


def test_padding_and_cuts_are_advised_against_where_there_is_much_of_them(seen):
    look = with_totals(seen, positions=100, filled=70, documents=10, cut=9)
    found = one(text, "rows", look)
    assert "30.0 % of the positions are padding" in found.figure
    assert "padding is computed" in found.advice and "batch.length" in found.advice
    assert not one(text, "rows", with_totals(seen, positions=100, filled=95, documents=10, cut=1)).advice


@pytest.mark.parametrize("changes, name, advised", [
    ({"ff": 64}, "feed-forward", "about 4 times"), ({"ff": 128}, "feed-forward", ""),
    ({"block": "swiglu", "ff": 85}, "feed-forward", ""), ({"block": "swiglu", "ff": 256}, "feed-forward", "2.7 times"),
    ({"heads": 2}, "heads", "32 to 128"), ({"heads": 1}, "heads", "")])
def test_proportions_off_the_usual_are_named(seen, changes, name, advised):
    look = replace(seen, recipe=replace(seen.recipe, model=replace(seen.recipe.model, **changes)))
    found = one(proportions, name, look)
    assert advised in found.advice and bool(found.advice) == bool(advised)


@pytest.mark.parametrize("config, of_100", [  # weights, gradients, masters, moments, of 100 parameters on 4 ranks
    ("zero0_fp32", (400, 400, 0, 800)), ("zero1_fp32", (400, 400, 100, 200)), ("zero2_bf16", (200, 100, 100, 200)),
    ("zero3_bf16", (50, 100, 100, 200)), ("zero2_offload_bf16", (200, 100, 0, 0))])
def test_memory_is_counted_by_stage_and_precision(seen, config, of_100):
    found = memory.state_bytes(engine_json(seen.recipe, 4, "cuda", config), 100, 4)
    assert tuple(found.values()) == of_100


def test_too_little_memory_and_disk_are_said(seen):
    large = replace(seen, parameters=10**13)
    assert "too little" in one(memory, "memory", large).advice and not one(memory, "memory", seen).advice
    assert "too little room" in one(disk, "disk", large).advice and not one(disk, "disk", seen).advice
    assert "1.2 KiB a checkpoint, at most 4 at once: 4.7 KiB" in one(disk, "disk", replace(seen, parameters=100)).figure


def test_rows_that_come_slower_than_the_device_takes_them_are_said(seen):
    quick = replace(seen, feed_s=0.5, step_s=2.0)
    assert "0.500 s for the rows of a step; roughly 2 s to train" in one(speed, "data speed", quick).figure
    assert not one(speed, "data speed", quick).advice
    assert "data.workers" in one(speed, "data speed", replace(quick, feed_s=3.0)).advice


def test_a_step_takes_longer_the_more_it_computes(seen):
    longer = replace(seen.recipe, batch=replace(seen.recipe.batch, rows=256))
    case = Case.of(longer)
    try:
        found = look_at(longer, case, seen.run_folder)
    finally:
        case.close()
    assert found.steps >= 2 and found.feed_s > 0  # one step alone says nothing of the feed: its first rows are filled
    assert 8 < found.step_s / seen.step_s < 128  # 32 times as many rows, guessed on a shared machine


def test_what_is_offloaded_is_counted_on_the_host(seen):
    look = replace(seen, config=engine_json(seen.recipe, 1, "cuda", "zero2_offload_bf16"), parameters=2**20)
    assert "offloaded to the memory of its host: 18.0 MiB a rank" in one(memory, "memory", look).figure
    assert "host" not in one(memory, "memory", seen).figure


def test_a_tokenizer_that_was_learned_from_the_text_is_not_advised_to_be(seen):
    many = with_totals(replace(seen, words=10), scored=100)
    assert "learned from this text" in one(text, "tokenizer", many).advice
    learned = replace(many, recipe=replace(seen.recipe, tokenizer="bpe:400"))
    assert "a larger vocabulary than bpe:400" in one(text, "tokenizer", learned).advice


def test_a_job_that_ends_before_the_run_does_is_said(seen, monkeypatch):
    look = replace(seen, step_s=120.0)  # 6 steps of 2 minutes
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    assert "10 min left in this job" in (found := one(environment, "time limit", look)).figure and found.advice
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 6000))
    assert not one(environment, "time limit", look).advice


def test_a_compiler_is_missed_only_where_the_recipe_compiles(seen, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert not one(environment, "compiler", seen).advice
    compiles = replace(seen.recipe, engine=replace(seen.recipe.engine, compile=True))
    assert "engine.compile needs one" in one(environment, "compiler", replace(seen, recipe=compiles)).advice


def test_all_themes_have_their_say_and_one_that_breaks_stops_none(seen):
    whole = all_figures(seen)
    assert len(whole) > len(THEMES) and not any("could not be taken" in figure.figure for figure in whole)
    broken = all_figures(replace(seen, totals={}))
    assert any(figure.figure.startswith("could not be taken: KeyError") for figure in broken)
    assert {"memory", "disk", "python"} <= {figure.name for figure in broken}

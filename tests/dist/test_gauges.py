"""What TensorBoard shows beside the loss: sums over the steps since the last log and over all ranks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from watch_jobs import training

from dstrain.config.schema import Source
from dstrain.doctor.proofs.resume import resumable
from dstrain.train.gauges import share_tags

pytestmark = pytest.mark.ranks


def test_shares_are_those_of_all_ranks_rows(case):
    """Weights 3 and 1: three quarters of the tokens, on any number of ranks. 3 ranks pad 8 rows to 12."""
    folder, recipe = case.new_folder("gauges"), resumable(case.recipe)
    for name in ("many words.txt", "few.txt"):
        (folder / name).write_text("".join(f"{n} in {name[:4]}\n" for n in range(400)))
    sources = tuple(Source(path=str(folder / name), documents="lines", weight=weight)
                    for name, weight in (("many words.txt", 3.0), ("few.txt", 1.0)))
    recipe = replace(recipe, data=replace(recipe.data, train=sources, block_tokens=256),
                     log=replace(recipe.log, every=3, norms_every=0))
    shares = {}
    for world, padding in ((1, 0.0), (3, 1 / 3)):
        place = case.new_folder("gauges")
        told = case.ranks(world).run(training, replace(recipe, run=replace(recipe.run, dir=str(place))), "zero1_fp32")
        assert [of_rank.error for of_rank in told] == [None] * world
        board = EventAccumulator(str(place / recipe.run.name / "tensorboard"))
        board.Reload()
        pad, *shares[world] = ([(event.step, event.value) for event in board.Scalars(tag)] for tag in (
            "data/pad_share", "data/share/0_many_words.txt", "data/share/1_few.txt"))
        assert pad == [(step, pytest.approx(padding, abs=1e-6)) for step in (2, 3, 4, 6)]  # logs at 3, 6; saves at 2, 4
    assert shares[1] == shares[3]
    first, second = ([value for _, value in share] for share in shares[1])
    assert [one + other for one, other in zip(first, second)] == pytest.approx([1.0] * 4)
    assert sum(steps * share for steps, share in zip((2, 1, 1, 2), first)) / 6 == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("late_ms, low, high", [(0, 0.0, 0.5), (500, 0.5, 1.0)])
def test_the_share_of_time_spent_waiting_is_that_of_the_rank_that_waits_longest(case, late_ms, low, high):
    """Steps of a few hundredths of a second, before each of which the second rank waits half a second."""
    folder, recipe = case.new_folder("slow"), resumable(case.recipe)
    recipe = replace(recipe, run=replace(recipe.run, dir=str(folder)), log=replace(recipe.log, norms_every=0))
    told = case.ranks(2).run(training, recipe, "zero1_fp32", "slow feed", late_ms)
    assert [of_rank.error for of_rank in told] == [None, None]
    board = EventAccumulator(str(folder / "run" / "tensorboard"))
    board.Reload()
    shares = [event.value for event in board.Scalars("perf/data_wait_share")]
    assert len(shares) == 6 and low <= sum(shares[1:]) / 5 <= high  # the first step's rows came before the clock ran
    assert shares[0] < 0.5


def test_sources_have_short_names_and_one_alone_has_no_share():
    sources = (Source(path="/data/wiki 103/*.jsonl.zst", weight=2.0), Source(hub="Salesforce/wikitext"),
               Source(embedded="python-stdlib"))
    recipe = SimpleNamespace(data=SimpleNamespace(train=sources))
    assert share_tags(recipe) == ["data/share/0_.jsonl.zst", "data/share/1_wikitext", "data/share/2_python-stdlib"]
    assert share_tags(SimpleNamespace(data=SimpleNamespace(train=sources[:1]))) == []

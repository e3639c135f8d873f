"""The order law for puzzles: rows are a function of data, seed and step, whatever ranks, micro-batches and stops."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe
from dstrain.data.grids.canonical import pair_form
from dstrain.data.grids.grid_feed import GridFeed
from dstrain.data.grids.grid_validation import valid_grids
from dstrain.data.grids.task import Example
from dstrain.data.grids.tokens import grid_of
from dstrain.data.window_place import merge_window_places

KINDS = ("decoder", "encoder-decoder", "champion")


def tasks_file(path: Path, count: int, seed: int = 0, side: int = 4) -> Path:
    """`count` tasks of three demonstrations and a query, random grids of up to `side`; rows turned around."""
    random = np.random.default_rng(seed)

    def example() -> dict:
        cells = random.integers(0, 10, random.integers(1, side + 1, 2)).astype(int)
        return {"input": cells.tolist(), "output": cells[:, ::-1].tolist()}

    tasks = {f"{path.stem}-{number}": {"train": [example() for _ in range(3)], "test": [example()]}
             for number in range(count)}
    path.write_text(json.dumps(tasks))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """5 tasks of 4 examples each: 20 questions an epoch, windows of 16."""
    return load_recipe("arc-quickstart", (
        f"data={{train: [{{path: {tasks_file(tmp_path / 'train.json', 5)}}}], "
        f"valid: [{{path: {tasks_file(tmp_path / 'valid.json', 7, 1)}}}]}}",
        "model={kind: champion, width: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, ff: 32}",
        "batch={tokens: 600, micro_tokens: 600, window: 16, length: 300}"))


def of_kind(recipe: Recipe, kind: str) -> Recipe:
    return replace(recipe, model=replace(recipe.model, kind=kind, layers=1))


def steps_of(recipe: Recipe, count: int, rank: int = 0, world: int = 1, place: dict | None = None) -> list:
    with closing(GridFeed(recipe, None, rank, world, place)) as feed:
        return list(islice(feed, count))


def rows_of(steps: list) -> list[dict[int, tuple]]:
    """Of each step by row number what it holds, without padding."""
    found = []
    for step in steps:
        rows: dict[int, tuple] = {}
        for batch in step.micro_batches:
            for b, row in enumerate(batch.rows_B.tolist()):
                if row >= 0:
                    assert row not in rows
                    length = batch.lengths_B[b]
                    beside = [] if batch.source_BS is None else batch.source_BS[b, :batch.source_lengths_B[b]].tolist()
                    if batch.context_BX is not None:
                        sizes = batch.context_lengths_BG[b].tolist()
                        grids = batch.context_BX[b].view(len(sizes), -1)
                        beside += [grid[:size].tolist() for grid, size in zip(grids, sizes) if size]
                    rows[row] = (batch.ids_BT[b, :length].tolist(), batch.labels_BT[b, :length].tolist(), beside)
        found.append(rows)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world, micro_tokens", [(1, 150), (2, 600), (3, 100), (4, 80)])
def test_batches_are_the_same_on_any_ranks_and_in_any_micro_batches(recipe, kind, world, micro_tokens):
    recipe = of_kind(recipe, kind)
    alone = steps_of(recipe, 10)
    shared = replace(recipe, batch=replace(recipe.batch, micro_tokens=micro_tokens))
    ranks = [steps_of(shared, 10, rank, world) for rank in range(world)]
    for number, rows in enumerate(rows_of(alone)):
        parts = [rows_of([steps[number]])[0] for steps in ranks]
        assert sum(map(len, parts)) == len(rows) and {n: row for part in parts for n, row in part.items()} == rows
        passes = {len(steps[number].micro_batches) for steps in ranks}
        assert len(passes) == 1
        hashed = sum(steps[number].rows_hash for steps in ranks)
        assert (hashed - alone[number].rows_hash) % 2**64 == 0
        assert merge_window_places([steps[number].place for steps in ranks]) == alone[number].place


@pytest.mark.parametrize("kind", KINDS)
def test_a_feed_goes_on_behind_any_step_with_the_same_rows(recipe, kind):
    """40 steps are several windows and epochs, and every place is plain JSON."""
    recipe = of_kind(recipe, kind)
    straight = steps_of(recipe, 40)
    assert straight[-1].place["window"] >= 3
    for stop in (1, 2, 5, 11, 20):
        place = json.loads(json.dumps(straight[stop - 1].place))
        after = steps_of(recipe, 40 - stop, place=place)
        assert rows_of(after) == rows_of(straight[stop:]) and [s.place for s in after] == [
            s.place for s in straight[stop:]]
        assert after[0].number == stop + 1


def test_every_example_is_asked_once_an_epoch_and_each_epoch_in_other_views_and_another_order(recipe):
    """20 questions: known by what they show, whatever the view."""
    recipe = replace(recipe, batch=replace(recipe.batch, window=20))
    asked: list[list[bytes]] = [[], [], []]
    plain: list[list[tuple]] = [[], [], []]
    for step in steps_of(recipe, 60):
        window = step.place["window"] - (step.place["batch"] == 0)
        for batch in step.micro_batches:
            for b in range(len(batch.rows_B)):
                if window < 3:
                    labels = batch.labels_BT[b]
                    pair = Example(grid_of(batch.source_BS[b].numpy()), grid_of(labels[labels >= 0].numpy()))
                    asked[window].append(min(pair_form(pair, symmetry) for symmetry in range(8)))
                    plain[window].append(tuple(batch.source_BS[b].tolist()))
    assert [len(epoch) for epoch in asked] == [20] * 3
    assert Counter(asked[0]) == Counter(asked[1]) == Counter(asked[2]) and plain[0] != plain[1] != plain[2]


def test_another_seed_is_another_order_and_other_views(recipe):
    other = replace(recipe, run=replace(recipe.run, seed=2))
    assert rows_of(steps_of(recipe, 3)) != rows_of(steps_of(other, 3))


def test_weights_are_shares_of_the_puzzles(recipe, tmp_path):
    more = tasks_file(tmp_path / "more.json", 3, 2)
    recipe = load_recipe("arc-quickstart", (
        f"data={{train: [{{path: {tmp_path / 'train.json'}, weight: 3}}, {{path: {more}, weight: 1}}]}}",
        "batch={tokens: 600, micro_tokens: 600, window: 40, length: 300}"))
    steps = steps_of(recipe, 30)
    given = [state["given"] for state in steps[-1].place["sources"]]
    assert given[0] == pytest.approx(3 * given[1], abs=3) and sum(given) % 40 == 0 and sum(given) > 0


def test_puzzles_that_do_not_fit_are_passed_over_and_counted_and_none_at_all_is_an_error(recipe, tmp_path):
    pairs = [{"input": [[colour] * 20] * 20, "output": [[2] * 20] * 20} for colour in (1, 3)]
    large = {"wide": {"train": pairs[:1], "test": pairs[1:]}}
    (tmp_path / "large.json").write_text(json.dumps(large))
    both = replace(recipe.data, valid=(), train=(*recipe.data.train, replace(
        recipe.data.train[0], path=str(tmp_path / "large.json"))))
    alone = replace(recipe, data=replace(both, train=both.train[1:]))
    with pytest.raises(UserError, match="no puzzle fits into batch.length 300 with a demonstration"):
        steps_of(alone, 1)
    mixed = replace(recipe, data=replace(recipe.data, valid=(), train=(replace(
        recipe.data.train[0], path=str(tmp_path / "both.json")),)))
    (tmp_path / "both.json").write_text(json.dumps(json.loads((tmp_path / "train.json").read_text()) | large))
    steps = steps_of(mixed, 12)
    assert sum(step.stats["dropped"] for step in steps) > 0
    assert all(len(ids) < 300 for rows in rows_of(steps) for ids, _, _ in rows.values())


def test_a_place_of_other_files_or_another_window_is_refused(recipe, tmp_path):
    place = steps_of(recipe, 2)[-1].place
    with pytest.raises(UserError, match="batch.window is 8, but the checkpoint was written with 16"):
        steps_of(replace(recipe, batch=replace(recipe.batch, window=8)), 1, place=place)
    tasks_file(tmp_path / "train.json", 5, seed=9)
    with pytest.raises(UserError, match="the files have changed since"):
        steps_of(recipe, 1, place=place)
    for broken in ({**place, "sources": [{"given": -1}]}, {**place, "sources": [{}]}, {"step": 1}):
        with pytest.raises(UserError, match="the place in the data"):
            steps_of(recipe, 1, place=broken)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_validation_asks_every_query_once_as_it_is_and_scores_answers_alone(recipe, tmp_path, kind, world):
    tasks = json.loads((tmp_path / "valid.json").read_text())
    expected = Counter(json.dumps(task["test"][0]["output"]) for task in tasks.values())
    found: Counter = Counter()
    for rank in range(world):
        for batch in valid_grids(of_kind(recipe, kind), None, rank, world):
            for labels in batch.labels_BT:
                found[json.dumps(grid_of(labels[labels >= 0].numpy()).tolist())] += 1
    assert found == expected and found.total() == 7


def test_training_on_a_puzzle_that_is_to_be_validated_is_refused(recipe, tmp_path):
    tasks = json.loads((tmp_path / "valid.json").read_text())
    turned = {"a-copy": {part: [{name: np.rot90(np.array(cells)).tolist() for name, cells in example.items()}
                                for example in examples] for part, examples in tasks["valid-3"].items()}}
    (tmp_path / "train.json").write_text(json.dumps(json.loads((tmp_path / "train.json").read_text()) | turned))
    with pytest.raises(UserError, match="valid-3"):
        steps_of(recipe, 1)


def test_micro_batches_of_a_feed_are_pinned_and_moved_whole(recipe):
    batch = steps_of(recipe, 1)[0].micro_batches[0]
    moved = batch.to(torch.device("cpu"))
    assert all(torch.equal(one, other) for one, other in zip(batch.tensors().values(), moved.tensors().values()))

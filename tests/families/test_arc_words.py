"""What a run says of puzzles: operations a target, rows as text."""

from __future__ import annotations

from contextlib import closing

import pytest

from dstrain.config.load import load_recipe
from dstrain.families.arc import ARC


@pytest.mark.parametrize("overrides, tokens", [
    (["model.kind=decoder"], 8 / 3), (["model.kind=encoder-decoder"], 1.0), (["model.kind=champion"], (7 * 1 + 2) / 3),
    (["model.kind=champion", "data.demonstrations=1"], (3 * 1 + 2) / 3)])
def test_operations_count_what_is_read_beside_an_answer(overrides: list[str], tokens: float):
    """Of three demonstrations a decoder reads 8 grids and writes 3; a tiny champion reads 7 in a layer, writes in 2."""
    assert ARC.flops_a_target(load_recipe("arc-quickstart", overrides), 10**6) == pytest.approx(6e6 * tokens)


@pytest.mark.parametrize("kind, grids", [("decoder", 2), ("encoder-decoder", 2), ("champion", 8)])
def test_rows_are_shown_as_rows_of_digits_with_all_that_stands_beside_them(kind: str, grids: int):
    recipe = load_recipe("arc-quickstart", [f"model.kind={kind}", "batch.window=64"])
    with closing(ARC.train_feed(recipe, None, 0, 1, None)) as feed:
        batch = next(feed).micro_batches[0]
    texts = dict(ARC.row_texts(batch, ARC.open_tokenizer(recipe)))
    assert sorted(texts) == sorted(batch.rows_B.tolist())
    for text in texts.values():
        lines = text.replace(">", "").replace("=", "").split("\n")
        assert all(set(line.strip()) <= set("0123456789.") for line in lines)
        assert text.count(".") >= grids - 1 and text.count(">") == (4 if kind == "decoder" else 1)

"""What a recipe says of a source takes effect, or is refused in one line; what is right is taken."""

from __future__ import annotations

import pytest
from recipe_texts import SMALLEST, recipe_file

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe

GIVEN = "embedded: python-stdlib, part: train"

BAD = {
    "nothing named": ("weight: 1", ["data.train.0", "neither path nor hub nor embedded", "set one"]),
    "path and hub": ("path: x.txt, hub: a/b", ["path 'x.txt' and hub 'a/b'", "keep one"]),
    "hub and embedded": ("hub: a/b, embedded: python-stdlib", ["hub 'a/b' and embedded 'python-stdlib'", "keep one"]),
    "all three": ("path: x.txt, hub: a/b, embedded: python-stdlib", ["path", "hub", "embedded", "keep one"]),
    "a hub without a name": ("hub: ''", ["data.train.0.hub", "names nothing", "Salesforce/wikitext"]),
    "config of a path": ("path: x.txt, config: big", ["data.train.0.config", "'big'", "only a dataset of the hub"]),
    "split of a path": ("path: x.parquet, split: test", ["data.train.0.split", "'test'", "only a dataset of the hub"]),
    "revision of embedded": ("embedded: python-stdlib, revision: main", ["data.train.0.revision", "'main'", "hub"]),
    "part of a hub dataset": ("hub: a/b, part: train", ["data.train.0.part", "'train'", "embedded", "set split"]),
    "documents of a hub dataset": ("hub: a/b, documents: lines", ["data.train.0.documents", "'lines'", ".txt"]),
    "documents of parquet": ("path: x.parquet, documents: lines", ["data.train.0.documents", "'lines'", ".txt"]),
    "documents of packed jsonl": ("path: x.jsonl.zst, documents: lines", ["data.train.0.documents", ".txt"]),
    "field of packed txt": ("path: x.txt.zst, text_field: body", ["data.train.0.text_field", "'body'", "columns"]),
    "starts of embedded": ("embedded: python-stdlib, starts: a", ["data.train.0.starts", "'a'", "one document"]),
    "starts and documents": ("path: '*', starts: a, documents: lines", ["starts", "documents", "keep one"]),
    "a broken pattern for rows": ("hub: a/b, starts: '('", ["data.train.0.starts", "'('", "regular expression"]),
    "packed parquet": ("path: x.parquet.gz", ["data.train.0.path", "'x.parquet.gz'", ".parquet"]),
    "packed nothing": ("path: x.zst", ["'x.zst'", ".jsonl"]),
    "a folder": ("path: corpus/", ["'corpus/'", "if it is a folder", "'corpus/*.jsonl'"]),
}


@pytest.mark.parametrize("source, parts", BAD.values(), ids=BAD.keys())
def test_a_source_that_cannot_be_meant_so_is_refused_in_one_line(source, parts, tmp_path):
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file(tmp_path, SMALLEST.replace(GIVEN, source)))
    text = str(caught.value)
    assert "line 5" in text and "\n" not in text and len(text) < 400
    for part in parts:
        assert part in text


@pytest.mark.parametrize("source", [
    "path: x.TXT", "path: x.JSONL.GZ", "path: x.jsonl.zst", "path: x.Parquet", "path: 'a/**/*.parquet'", "path: 'a/*'",
    "path: '*.jsonl*', text_field: body, documents: lines", "path: x.txt.zst, documents: paragraphs",
    "path: x.parquet, text_field: body, starts: '= '", "path: x.jsonl, starts: '= '", "path: my.v1.2.jsonl.gz",
    "hub: Salesforce/wikitext", "hub: a/b, config: c, split: validation, revision: v1, text_field: body, starts: x",
    "hub: ./folder, weight: 2", "path: x.txt, split: train"])
def test_a_source_that_says_what_it_is_is_taken(source, tmp_path):
    load_recipe(recipe_file(tmp_path, SMALLEST.replace(GIVEN, source)))

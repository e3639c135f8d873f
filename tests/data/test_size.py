"""How much text there is, as far as files tell without being read."""

from __future__ import annotations

import gzip
from dataclasses import replace

from dstrain.config.load import load_recipe
from dstrain.config.schema import Source
from dstrain.data.reading.size import text_bytes


def size_of(path) -> int | None:
    recipe = load_recipe("quickstart")
    return text_bytes(replace(recipe, data=replace(recipe.data, train=(Source(path=str(path)),))))


def test_plain_files_are_as_large_as_they_are_and_packed_ones_as_they_say(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"y" * 5000))
    assert size_of(tmp_path / "a.txt") == 100
    assert size_of(tmp_path / "b.txt.gz") == 5000
    assert size_of(tmp_path / "*") == 5100


def test_packed_files_of_several_parts_do_not_tell(tmp_path):
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"y" * 5000) + gzip.compress(b""))
    assert size_of(tmp_path / "c.txt.gz") is None


def test_an_empty_packed_file_is_nothing(tmp_path):
    (tmp_path / "d.txt.gz").write_bytes(b"")
    assert size_of(tmp_path / "d.txt.gz") == 0

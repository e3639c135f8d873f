"""Files that proofs rest on: where data, a tokenizer, an import or a version is another, nothing is proven any more."""

from __future__ import annotations

import json
import os
import time

import pytest
from small_run import lay_out

from dstrain.config import certificate as judged
from dstrain.config.certificate import FILE, why_not_proven
from dstrain.config.load import load_recipe
from dstrain.doctor.certificate import certificate, write_certificate
from dstrain.doctor.examined import Examined
from dstrain.doctor.finding import Finding
from dstrain.doctor.registry import PROOFS


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(lay_out(tmp_path))
    return tmp_path


def recipe_of(*overrides: str):
    return load_recipe("small.yaml", list(overrides))


def proven(folder, *overrides: str) -> None:
    found = [Examined(name, "it holds", "shrunk", Finding(True, "0", "none", ""), "", 0.1) for name in PROOFS]
    write_certificate(folder, certificate(recipe_of(*overrides), found, device="cpu", device_name="cpu",
                                          data_sample="12ab"))
    assert why_not_proven(folder, recipe_of(*overrides)) is None


def written_anew(path, text: str) -> None:
    time.sleep(0.02)  # of the clock that marks files
    path.write_text(text)


@pytest.mark.parametrize("name, where", [("corpus.txt", "data.train.0"), ("valid.txt", "data.valid.0")])
def test_text_that_is_replaced_is_not_what_was_proven(place, name, where):
    proven(place)
    written_anew(place / name, (place / name).read_text().swapcase())  # as many bytes
    assert why_not_proven(place, recipe_of()).startswith(f"{where}: its files are others")


def test_one_more_file_of_a_pattern_is_named_with_its_size(place):
    (place / "texts").mkdir()
    (place / "texts/a.txt").write_text("1234\n")
    override = "data.train=[{path: texts/*.txt}]"
    proven(place, override)
    (place / "texts/b.txt").write_text("12345\n")
    why = why_not_proven(place, recipe_of(override))
    assert "1 file(s), 5 bytes; now 2 file(s), 11 bytes" in why


def test_from_another_folder_other_text_has_the_same_relative_path(place, monkeypatch):
    proven(place)
    (other := place / "other").mkdir()
    monkeypatch.chdir(lay_out(other))
    assert "data.train.0" in why_not_proven(place, recipe_of())


def test_text_that_is_gone_is_said_in_a_line(place):
    proven(place)
    (place / "corpus.txt").unlink()
    assert "now none found" in why_not_proven(place, recipe_of())


def test_of_prepared_shards_the_shards_count(place):
    (shards := place / "shards").mkdir()
    (shards / "a.bin").write_text("one")
    override = f"data.prepared={shards}"
    proven(place, override)
    written_anew(shards / "a.bin", "two")
    assert why_not_proven(place, recipe_of(override)).startswith("data.prepared: its files are others")


def test_of_a_saved_tokenizer_the_content_counts_and_not_the_time(place):
    (saved := place / "saved").mkdir()
    (saved / "tokenizer.json").write_text('{"kind": "bytes"}')
    override = f"tokenizer={saved}"
    proven(place, override)
    written_anew(saved / "tokenizer.json", '{"kind": "bytes"}')
    assert why_not_proven(place, recipe_of(override)) is None
    written_anew(saved / "tokenizer.json", '{"kind": "other"}')
    assert why_not_proven(place, recipe_of(override)).startswith("tokenizer: its files are others")


@pytest.mark.parametrize("line, helper", [("import helper", "helper.py"), ("from helper import scale", "helper.py"),
                                          ("from parts.inner import scale", "parts/inner.py"),
                                          ("from parts import inner", "parts/inner.py")])
def test_a_file_that_the_models_class_imports_is_part_of_it(place, line, helper):
    (place / "own").mkdir()
    (place / "own/mine.py").write_text(f"import torch\n{line}\n\nclass Mine(torch.nn.Module):\n    pass\n")
    path = place / "own" / helper
    path.parent.mkdir(exist_ok=True)
    path.write_text("import further\nscale = 1\n")
    (further := place / "further.py").write_text("more = 1\n")
    override = f"model.code={place}/own/mine.py:Mine"
    proven(place, override)
    path.write_text("import further\nscale = 2\n")
    assert "imports is another one" in why_not_proven(place, recipe_of(override))
    proven(place, override)
    further.write_text("more = 2\n")
    assert "imports is another one" in why_not_proven(place, recipe_of(override))


def test_a_variable_of_the_environment_section_is_a_change_of_the_recipe(place):
    proven(place)
    assert why_not_proven(place, recipe_of("environment.NCCL_ALGO=Ring")).startswith("environment.NCCL_ALGO was absent")


@pytest.mark.parametrize("package", ["torch", "deepspeed", "python"])
def test_another_version_needs_another_proof(place, package):
    proven(place)
    text = json.loads((place / FILE).read_text())
    text["subject"].setdefault("versions", {})[package] = "1.0"
    (place / FILE).write_text(json.dumps(text))
    assert why_not_proven(place, recipe_of()).startswith(f"{package} was '1.0' when it was proven, and is ")


def test_a_python_without_torch_is_not_asked_for_versions(place, monkeypatch):
    proven(place)
    monkeypatch.setattr(judged, "versions_here", lambda: {}, raising=False)
    assert why_not_proven(place, recipe_of()) is None


HUB = "data.train=[{hub: a/b%s}]"


@pytest.mark.parametrize("said, read, now, holds", [
    ("", "c" * 40, "", True), ("", "c" * 40, ", revision: " + "c" * 40, True),
    ("", "c" * 40, ", revision: " + "d" * 40, False), (", revision: main", "c" * 40, ", revision: main", True),
    (", revision: main", "c" * 40, "", False), (", revision: main", "c" * 40, ", revision: other", False)])
def test_a_dataset_of_the_hub_is_proven_at_the_commit_that_was_read(place, said, read, now, holds):
    before = recipe_of(HUB % said)
    found = [Examined(name, "it holds", "shrunk", Finding(True, "0", "none", ""), "", 0.1) for name in PROOFS]
    subject = judged.subject_of(before, recipe_of(HUB % f", revision: {read}"))
    write_certificate(place, certificate(before, found, device="cpu", device_name="cpu", data_sample="1",
                                         subject=subject))
    why = why_not_proven(place, recipe_of(HUB % now))
    assert why is None if holds else why.startswith("data.train.0.revision was ")


def test_a_folder_in_the_place_of_a_hub_dataset_is_looked_into(place):
    (place / "set/data").mkdir(parents=True)
    (part := place / "set/data/train.parquet").write_text("one")
    override = f"data.train=[{{hub: {place / 'set'}}}]"
    proven(place, override)
    os.utime(part, ns=(1, 1))
    assert why_not_proven(place, recipe_of(override)).startswith("data.train.0: its files are others")

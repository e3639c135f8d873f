"""doctor.json is of one recipe, one code and all proofs: what is different since then is named, and nothing else is."""

from __future__ import annotations

import json

import pytest

from dstrain.config import certificate as judged
from dstrain.config.certificate import FILE, why_not_proven
from dstrain.config.load import load_recipe
from dstrain.doctor.beyond import beyond
from dstrain.doctor.certificate import certificate, write_certificate
from dstrain.doctor.examined import Examined, examined
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.registry import PROOFS

ENGINE = {"zero_optimization": {"stage": 2}}


def recipe_of(*overrides: str):
    return load_recipe("quickstart", list(overrides))


def outcome(name: str, passed: bool = True) -> Examined:
    finding = Finding(passed, "0 of 3 differ", "none", "" if passed else "a leak")
    return Examined(name, "it holds", "shrunk", finding, "", 0.1)


def written(folder, recipe=None, found=None) -> dict:
    new = certificate(recipe or recipe_of(), found or [outcome(name) for name in PROOFS], device="cpu",
                      device_name="cpu", data_sample="12ab", not_proven=beyond(recipe_of(), "cpu", (1, 2)))
    return write_certificate(folder, new)


def test_without_a_certificate_nothing_is_proven(tmp_path):
    assert why_not_proven(tmp_path, recipe_of()) == "there is no doctor.json"


def test_a_recipe_is_proven_until_a_key_changes_and_the_key_is_named(tmp_path):
    written(tmp_path)
    assert why_not_proven(tmp_path, recipe_of()) is None
    why = why_not_proven(tmp_path, recipe_of("optim.lr=0.001"))
    assert why == "optim.lr was 0.003 when it was proven, and is 0.001 now"
    assert "1 more keys" in why_not_proven(tmp_path, recipe_of("optim.lr=0.001", "run.seed=7"))
    assert why_not_proven(tmp_path, recipe_of("data.valid=[]")).startswith("data.valid.0")


@pytest.mark.parametrize("override", ["run.name=other", "run.dir=elsewhere", "log.every=1", "checkpoint.every=7",
                                      "data.workers=5", "run.max_minutes=9"])
def test_what_no_proof_depends_on_may_change(tmp_path, override):
    written(tmp_path)
    assert recipe_of(override) != recipe_of() and why_not_proven(tmp_path, recipe_of(override)) is None


def test_of_an_engine_file_the_content_counts_and_not_the_name(tmp_path):
    paths = [tmp_path / "one.json", tmp_path / "other.json"]
    for path in paths:
        path.write_text(json.dumps(ENGINE))
    written(tmp_path, recipe_of(f"engine.config={paths[0]}"))
    assert why_not_proven(tmp_path, recipe_of(f"engine.config={paths[1]}")) is None
    paths[1].write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    assert why_not_proven(tmp_path, recipe_of(f"engine.config={paths[1]}")).startswith("the engine file is another")


def test_another_code_needs_another_proof(tmp_path, monkeypatch):
    written(tmp_path)
    monkeypatch.setattr(judged, "code_hash", lambda: "0ther")
    assert why_not_proven(tmp_path, recipe_of()) == "dstrain is another one since it was proven"


def test_a_failed_proof_and_one_that_was_not_run_are_named(tmp_path):
    first, *others = PROOFS
    written(tmp_path, found=[outcome(first, passed=False), *map(outcome, others)])
    assert why_not_proven(tmp_path, recipe_of()) == f"a proof failed: {first}"
    (other := tmp_path / "other").mkdir()
    written(other, found=[outcome(name) for name in others])
    assert why_not_proven(other, recipe_of()) == f"1 of {len(PROOFS)} proofs were not run: {first}"


def test_a_claim_that_could_not_be_tried_is_listed_with_its_reason_and_is_no_failure(tmp_path):
    def cannot() -> Finding:
        raise NotProven("the batch does not say")

    untried = examined("continuations", "it holds", "shrunk", cannot)
    new = written(tmp_path, found=[untried if name == untried.name else outcome(name) for name in PROOFS])
    assert untried.verdict == "not proven" and not untried.passed and not untried.failed
    assert "continuations: the batch does not say" in new["not_proven"] and new["passed"]
    assert why_not_proven(tmp_path, recipe_of()) is None


@pytest.mark.parametrize("name, overrides, may", [
    ("labels", (), False), ("gradients", (), False), ("documents", (), False), ("overlap", (), False),
    ("overlap", ("data.valid=[]",), True)])
def test_only_what_this_recipe_has_nothing_of_may_stay_open(tmp_path, name, overrides, may):
    recipe = recipe_of(*overrides)
    untried = Examined(name, "it holds", "full", None, "too large for this machine", 0.1)
    written(tmp_path, recipe, [untried if each == name else outcome(each) for each in PROOFS])
    why = why_not_proven(tmp_path, recipe)
    assert why is None if may else why == f"{name} could not be tried (too large for this machine)"


@pytest.mark.parametrize("name", ["numbers-en-de", "arc-quickstart", "arc1-decoder", "arc1-encoder-decoder"])
def test_pairs_and_puzzles_have_no_documents_in_a_row_and_are_proven_without(tmp_path, name):
    recipe = load_recipe(name, ["data.valid=[]", "data.train=[{embedded: puzzles}]"] if name.startswith("arc1") else [])
    untried = Examined("documents", "it holds", "shrunk", None, "the batch does not say", 0.1)
    written(tmp_path, recipe, [untried if name == "documents" else outcome(name) for name in PROOFS])
    assert why_not_proven(tmp_path, recipe) is None


def test_a_proof_run_again_takes_its_place_among_the_others_of_the_same_recipe_only(tmp_path):
    first, *others = PROOFS
    written(tmp_path, found=[outcome(first, passed=False), *map(outcome, others)])
    again = written(tmp_path, found=[outcome(first)])
    assert [proof["name"] for proof in again["proofs"]] == list(PROOFS) and again["passed"]
    assert why_not_proven(tmp_path, recipe_of()) is None
    of_other = written(tmp_path, recipe_of("optim.lr=0.001"), found=[outcome(first)])
    assert [proof["name"] for proof in of_other["proofs"]] == [first]
    assert again["not_run"] == [] and of_other["not_run"] == others and not of_other["passed"]


@pytest.mark.parametrize("text", ["{torn", "[]", '{"format": 0}', ""])
def test_what_is_no_certificate_proves_nothing(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert "no certificate" in why_not_proven(tmp_path, recipe_of())


def test_a_certificate_from_a_cpu_says_that_no_cuda_kernel_was_proven(tmp_path):
    new = written(tmp_path)
    assert new["device"] == "cpu" and {proof["device"] for proof in new["proofs"]} == {"cpu"}
    assert sum("CUDA kernels" in line for line in new["not_proven"]) == 1
    assert any("full size" in line for line in new["not_proven"])


def test_figures_tolerances_versions_and_hashes_are_in_it(tmp_path):
    new = written(tmp_path)
    assert set(new["subject"]["hashes"]) == {"recipe", "engine_file", "code", "model_code", "model_imports",
                                             "data_sample"}
    assert all(proof["figure"] and proof["tolerance"] for proof in new["proofs"])
    assert new["versions"]["torch"] and new["versions"]["deepspeed"] and new["versions"]["python"]

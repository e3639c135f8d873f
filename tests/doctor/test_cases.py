"""What the doctor makes of a user's own engine file, precision, lanes and data; and what it says of mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dstrain.__main__ import main
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.examine import PROOFS, examine

ROOT = Path(__file__).resolve().parents[2]
OWN_NUMBERS = {
    "train_batch_size": 16, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW",
                  "params": {"lr": 3.0e-3, "betas": [0.9, 0.95], "weight_decay": 0.1, "torch_adam": True}},
    "scheduler": {"type": "WarmupCosineLR",
                  "params": {"total_num_steps": 450, "warmup_num_steps": 20, "cos_min_ratio": 0.1}}}
"""the quickstart recipe's"""


@pytest.fixture
def case_of():
    cases = []

    def make(overrides=(), ds_config=None, recipe="quickstart"):
        cases.append(Case.of(load_recipe(recipe, list(overrides), ds_config), ds_config))
        return cases[-1]

    yield make
    for case in cases:
        case.close()


def engine_file(folder: Path, **keys) -> str:
    path = folder / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **keys}))
    return str(path)


def proven(case: Case, *names: str) -> dict[str, bool]:
    """Whether each proof passed; those that could not be tried are left out."""
    return {found.name: found.finding.passed for found in examine(case, list(names), print) if found.finding}


def doctor(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, "-m", "dstrain", "doctor", *arguments], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


@pytest.mark.ranks
@pytest.mark.parametrize("from_the_command_line", [True, False])
def test_an_engine_file_that_repeats_the_recipes_numbers_is_proven_like_any_other(
        case_of, tmp_path, from_the_command_line):
    path = engine_file(tmp_path, **OWN_NUMBERS)
    case = case_of(ds_config=path) if from_the_command_line else case_of([f"engine.config={path}"])
    assert case.stage == 2
    assert proven(case, "schedule", "gradient") == {"schedule": True, "gradient": True}


def test_an_engine_file_that_contradicts_the_recipe_is_still_refused(case_of, tmp_path):
    with pytest.raises(UserError, match="train_batch_size is 32"):
        case_of(ds_config=engine_file(tmp_path, train_batch_size=32))


@pytest.mark.ranks
def test_autocast_is_held_to_the_bounds_of_bf16(case_of, tmp_path):
    case = case_of(ds_config=engine_file(tmp_path, torch_autocast={"enabled": True, "dtype": "bfloat16"}))
    assert case.precision == "bf16" and case.not_proven == ()
    assert proven(case, "gradient", "same_curve") == {"gradient": True, "same_curve": True}


@pytest.mark.ranks
def test_fp16_is_proven_in_fp32_at_its_stage_and_the_certificate_says_so(case_of):
    case = case_of(["engine.config=zero3_fp16"])
    found = examine(case, ["gradient"], print)
    assert case.precision == "fp32" and case.stage == 3 and found[0].finding.passed
    not_proven, = case.not_proven
    assert not_proven.startswith("fp16") and "stage, 3" in not_proven


def test_two_precisions_at_once_are_the_users_mistake_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = engine_file(tmp_path, fp16={"enabled": True}, bf16={"enabled": True})
    with pytest.raises(UserError, match="both enabled"):
        Case.of(load_recipe("quickstart"), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["own.json"]


@pytest.mark.ranks
def test_one_lane_is_proven_on_one_rank_and_said(case_of, tmp_path):
    (tmp_path / "all.txt").write_text("one line after the other of a single document\n" * 200)
    case = case_of([f"data.train=[{{path: {tmp_path}/all.txt}}]", "data.valid=[]", "data.lanes=1"])
    assert case.worlds == (1,) and "data.lanes is 1" in case.not_proven[0]
    assert proven(case, *PROOFS) == dict.fromkeys([name for name in PROOFS if name != "overlap"], True)


@pytest.mark.ranks
def test_shards_a_learned_tokenizer_and_muon_in_a_schedule_that_falls_late_are_proven(case_of, tmp_path, monkeypatch):
    """Proofs make texts of their own, which no shard holds; the tokenizer is learned once for all of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.txt").write_text("".join(f"line {n} says that {n} and one are {n + 1}\n" for n in range(900)))
    source = f"{{path: {tmp_path}/all.txt, documents: lines}}"
    recipe = [f"data.train=[{source}]", f"data.valid=[{source}]", "tokenizer=bpe:300"]
    assert main(["prepare", "quickstart", *recipe, "--out", "made"]) == 0
    case = case_of([*recipe, "data.prepared=made", "optim.name=muon", "schedule.name=WarmupStableDecayLR"])
    assert "the shards in made" in case.not_proven[0]
    assert all(proven(case, "labels", "schedule", "resume").values())


@pytest.mark.ranks
@pytest.mark.parametrize("form", ["lines", "paragraphs", "starts", "file", "jsonl"])
def test_targets_are_counted_in_every_form_of_source(case_of, tmp_path, form):
    texts = [f" = {n} = \nline {n}\nand {'ä' * (n % 7)}{n + 1}" for n in range(1500)]
    if form == "jsonl":
        (tmp_path / "own.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts) + "{torn\n")
        source = f"{{path: {tmp_path}/own.jsonl, text_field: body}}"
    else:
        (tmp_path / "own.txt").write_text("\n\n".join(texts))
        settings = {"starts": "starts: '^ = '"}.get(form, f"documents: {form}")
        source = f"{{path: {tmp_path}/own.txt, {settings}}}"
    case = case_of([f"data.train=[{source}]", f"data.valid=[{source}]", "data.bad_share=0.01", "data.lanes=2"])
    finding = PROOFS["labels"].prove(case)
    assert finding.passed, finding


@pytest.mark.ranks
def test_labels_and_masks_are_proven_with_the_gpt2_tokenizer(case_of, shared_data, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    folder = [f"data.folder={shared_data}/wikitext2"]
    names = ("labels", "future", "padding", "documents", "continuations")
    assert proven(case_of(folder, recipe="wikitext2-tiny"), *names) == dict.fromkeys(names, True)


def test_a_mistake_in_the_data_is_one_line_before_any_proof(tmp_path):
    done = doctor("quickstart", "data.train=[{path: nowhere.txt}]", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "nowhere.txt" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "FAILED" not in done.stdout and not (tmp_path / "runs").exists()


def test_a_mistake_that_only_a_proof_meets_is_the_users_too_and_no_failed_proof(case_of, tmp_path):
    (tmp_path / "torn.txt").write_bytes(b"\xff is no UTF-8\n")
    case = case_of([f"data.valid=[{{embedded: python-stdlib, part: valid}}, {{path: {tmp_path}/torn.txt}}]"])
    case.open_data()
    with pytest.raises(UserError, match="torn.txt"):
        examine(case, ["labels"], print)


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
def test_a_recipe_that_compiles_is_proven_with_one_compiled_run(case_of):
    case = case_of(["engine.compile=true"])
    finding = PROOFS["same_curve"].prove(case)
    assert finding.passed and "compiled" in finding.figure


def test_without_a_compiler_the_certificate_says_that_compiling_is_not_proven(case_of, monkeypatch):
    monkeypatch.setattr("dstrain.doctor.case.shutil.which", lambda name: None)
    case = case_of(["engine.compile=true"])
    assert not case.compiled and not case.recipe.engine.compile and case.not_proven[0].startswith("engine.compile")

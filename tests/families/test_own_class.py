"""A user's own model class: the one in docs/overview.md trains, goes on and is proven; each mistake is one line."""

from __future__ import annotations

import json
import os
import re

import pytest
from own_class_jobs import train_in
from small_run import ROOT, lay_out

from dstrain.__main__ import main
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.config.model_code import text_of
from dstrain.doctor.case import Case
from dstrain.doctor.proofs.resume import forget_after
from dstrain.doctor.registry import PROOFS
from dstrain.families import family_of
from dstrain.families.own_class import own_class
from dstrain.runtime.checkpoint.tensor_file import TensorFile
from dstrain.runtime.rank_group import RankGroup

EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "docs/overview.md").read_text(), re.DOTALL).group(1)
MEAN = ["model.code=mine.py:Mean"]
OF_THE_MODEL = ("arguments", "future", "padding", "neighbours", "documents", "targets", "first_loss", "gradients",
                "derivative", "by_heart")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The example beside a small recipe and its text."""
    lay_out(tmp_path)
    (tmp_path / "mine.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    text_of.cache_clear(), own_class.cache_clear()
    return tmp_path


@pytest.fixture(scope="module")
def ranks():
    with RankGroup(2) as group:
        yield group


@pytest.mark.ranks
def test_the_example_trains_goes_on_with_a_changed_file_and_is_scored_as_it_was_trained(folder, ranks, capsys):
    for name in ("straight", "small"):
        ranks.run(train_in, str(folder), [*MEAN, f"run.name={name}", "checkpoint.keep=9"])
    forget_after(folder / "runs", load_recipe("small.yaml", MEAN), 2)
    again = ranks.run(train_in, str(folder), [*MEAN, "checkpoint.keep=9"])[0]
    assert "goes on from runs/small/checkpoints/step_00000002" in again and "changed since" not in again
    last = [folder / f"runs/{name}/checkpoints/step_00000006/model.safetensors" for name in ("straight", "small")]
    assert last[0].read_bytes() == last[1].read_bytes() and "mixers.1.weight" in TensorFile(last[0]).shapes
    (folder / "mine.py").write_text(EXAMPLE.replace("torch.tanh", "torch.sin"))
    on = ranks.run(train_in, str(folder), [*MEAN, "run.steps=7"], "zero3_fp32")[0]
    assert "model.code: the text of mine.py (SHA-256" in on and "done: 7 steps" in on
    (folder / "mine.py").unlink()
    assert main(["eval", "runs/small"]) == 0 and "perplexity" in capsys.readouterr().out
    assert main(["generate", "runs/small", "--prompt", "one"]) == 2
    assert "Mean (model.code) has no new_cache and extend" in capsys.readouterr().err
    assert main(["export", "runs/small", "--to", "hf", "--out", "out"]) == 2
    assert "cannot be exported" in capsys.readouterr().err


def test_every_proof_on_models_holds_for_the_example_in_small_and_in_full(folder):
    case = Case.of(load_recipe("small.yaml", [*MEAN, "model.width=48"]))
    try:
        assert (case.recipe.model.width, case.full.model.width) == (32, 48)
        findings = {name: PROOFS[name].prove(case) for name in OF_THE_MODEL}
    finally:
        case.close()
    assert all(finding.passed for finding in findings.values()), findings


def test_a_class_that_forgets_the_documents_is_named(folder):
    (folder / "mine.py").write_text(EXAMPLE.replace("can_attend_BTT(segments_BT)",
                                                    "can_attend_BTT(torch.zeros_like(segments_BT))"))
    case = Case.of(load_recipe("small.yaml", MEAN))
    try:
        found = {name: PROOFS[name].prove(case).passed for name in ("future", "documents")}
    finally:
        case.close()
    assert found == {"future": True, "documents": False}


@pytest.mark.ranks
def test_a_subclass_of_the_familys_own_writes_texts_too(folder, ranks, capsys):
    (folder / "mine.py").write_text("from dstrain.models.decoder_lm import DecoderLm\n\n\nclass Same(DecoderLm):\n"
                                    "    pass\n")
    ranks.run(train_in, str(folder), ["model.code=mine.py:Same", "run.steps=2"])
    assert main(["generate", "runs/small", "--prompt", "one", "--max-new-tokens", "3"]) == 0
    case = Case.of(load_recipe("small.yaml", ["model.code=mine.py:Same"]))
    case.close()
    assert case.recipe.model.width == case.full.model.width == 32, "without `shrink` the model stays as it is"


@pytest.mark.parametrize("change, code, said", [
    (None, "nowhere.py:Mean", "nowhere.py cannot be read"),
    (None, "mine.py", "write FILE.py:CLASS"),
    (None, "mine.py:Maen", "did you mean 'Mean'"),
    (None, "mine.py:Transformer.x", "write FILE.py:CLASS"),
    (("import torch\n", "import torch\nimport not_here\n"), "mine.py:Mean", "ModuleNotFoundError in line 6"),
    (("vocab_size, length):", "vocab_size):"), "mine.py:Mean", "too many positional arguments"),
    (("segments_BT, positions_BT, keys_B", "segments_BT, keys_B"), "mine.py:Mean", "does not take positions_BT"),
    (("positions_BT, keys_B)", "positions_BT, keys_B, **others)"), "mine.py:Mean", "swallows"),
    (("keys_B):", "keys_B, heads):"), "mine.py:Mean", "wants heads"),
    (("class Mean(Transformer)", "class Mean(nn.Module)"), "mine.py:Mean", "has no output_weight"),
    (("initial_std(self", "other(self"), "mine.py:Mean", "has no initial_std"),
    (("return Hidden(self.norm(x_BTC))", "return self.norm(x_BTC)"), "mine.py:Mean", "returns Tensor; return"),
    (("Hidden(self.norm(x_BTC))", "Hidden(self.norm(x_BTC)[:, 1:])"), "mine.py:Mean", "(2, 31, 32), but (2, 32, 32)"),
    (("return replace(settings, width=32, layers=2)", "return {}"), "mine.py:Mean", "shrink returns dict")])
def test_what_is_missing_in_a_class_is_said_in_a_line(folder, change, code, said):
    if change is not None:
        assert change[0] in EXAMPLE
        (folder / "mine.py").write_text(EXAMPLE.replace(*change))
    with pytest.raises(UserError) as mistake:
        case = Case.of(load_recipe("small.yaml", [f"model.code={code}"]))
        try:
            subject = case.subject()
            subject.run(subject.module, subject.batch)
        finally:
            case.close()
    assert said in str(mistake.value) and "\n" not in str(mistake.value)


def test_another_class_is_another_run_and_a_compiled_one_is_refused(folder):
    from dstrain.train.continuity import changes_since
    saved, other = (load_recipe("small.yaml", changes) for changes in (MEAN, ["model.code=mine.py:Other"]))
    with pytest.raises(UserError, match="model.code is 'mine.py:Other'.*another run"):
        changes_since(saved, other, "here")
    with pytest.raises(UserError, match="engine.compile is on"):
        load_recipe("small.yaml", [*MEAN, "engine.compile=true"])


def test_a_translator_of_ones_own_is_called_as_the_familys_is(folder):
    (folder / "pairs.py").write_text("from dstrain.models.seq2seq import Seq2Seq\n\n\nclass Own(Seq2Seq):\n    pass\n")
    recipe = load_recipe("numbers-en-de", ["model.code=pairs.py:Own", "tokenizer=bytes"])
    family = family_of(recipe)
    assert type(family.build_trainee(recipe, family.open_tokenizer(recipe, None)).model).__name__ == "Own"
    assert os.getcwd() == str(folder)


def test_a_class_that_raises_is_named_with_its_line_and_the_certificate_is_written(folder, capsys):
    lines = EXAMPLE.splitlines()
    number = next(n for n, line in enumerate(lines) if "can_attend_BTT(segments_BT)" in line)
    indent = lines[number][:len(lines[number]) - len(lines[number].lstrip())]
    lines.insert(number, f"{indent}raise ValueError('no such thing')")
    (folder / "mine.py").write_text("\n".join(lines))
    assert main(["doctor", "small.yaml", *MEAN, "--only", "future,padding"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f"ValueError: no such thing (mine.py, line {number + 1})") == 2  # a proof, and the figures
    assert "found broke as future did" in said
    written = json.loads((folder / "runs/small/doctor.json").read_text())
    assert [proof["verdict"] for proof in written["proofs"]] == ["FAILED", "FAILED"] and not written["passed"]

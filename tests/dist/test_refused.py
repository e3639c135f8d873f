"""A run that cannot go on is refused before anything in its folder is changed, and is told what to do."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import pytest
from small_run import sign

from dstrain.doctor.proofs.resume import resumable, run_to_end
from dstrain.runtime.rank_group import RankError
from dstrain.train.run_folder import RunFolder

pytestmark = pytest.mark.ranks

NOT_OF_THE_RUN = (".lock", "blackbox")


@pytest.fixture(scope="module")
def stopped(case, tmp_path_factory):
    """A run of six steps whose newest checkpoint is damaged, so that going on would move it aside; its own text."""
    folder = tmp_path_factory.mktemp("stopped")
    text = folder / "text.txt"
    text.write_text("".join(f"line {n} says that {n} plus one is {n + 1}\n" for n in range(400)))
    recipe = resumable(case.recipe)
    source = replace(recipe.data.train[0], embedded=None, path=str(text), documents="lines", part="all")
    recipe = replace(recipe, data=replace(recipe.data, train=(source,)))
    run_to_end(case, recipe, folder, 2, "zero1_fp32")
    newest = RunFolder(folder / "run").checkpoints / "step_00000006"
    (newest / "model.safetensors").write_bytes(b"torn")
    return recipe, folder


def test_what_may_go_on_moves_the_damaged_checkpoint_aside(case, stopped, tmp_path):
    """The same folder with nothing changed does change: so the tests below would see it."""
    recipe, folder = copied(stopped, tmp_path)
    before = contents(folder)
    run_to_end(case, recipe, folder, 2, "zero1_fp32")
    assert contents(folder) != before and (folder / "run/checkpoints/damaged_step_00000006").is_dir()


@pytest.mark.parametrize("section, change, reason", [
    ("optim", {"name": "muon"}, "optim.name is 'muon' in the recipe, but 'adamw' in .*another run; set it back"),
    ("model", {"width": 64}, "model.width is 64 in the recipe, but 32 in .*would be another run"),
    ("batch", {"rows": 16}, "batch.rows is 16 in the recipe, but 8"),
    ("batch", {"length": 16}, "batch.length is 16 in the recipe, but 32"),
    ("run", {"seed": 7}, "run.seed is 7 in the recipe, but 1"),
])
def test_another_run_is_refused_and_leaves_every_byte(case, stopped, tmp_path, section, change, reason):
    recipe, folder = copied(stopped, tmp_path)
    recipe = replace(recipe, **{section: replace(getattr(recipe, section), **change)})
    refused(case, recipe, folder, reason)


def test_another_tokenizer_is_refused_and_leaves_every_byte(case, stopped, tmp_path):
    recipe, folder = copied(stopped, tmp_path)
    refused(case, replace(recipe, tokenizer="bytes"), folder, "tokenizer is 'bytes' in the recipe, but .*another run")


def test_other_text_under_the_same_name_is_refused_and_leaves_every_byte(case, stopped, tmp_path):
    recipe, folder = copied(stopped, tmp_path)
    other = tmp_path / "other.txt"
    other.write_text("another text altogether\n" * 400)
    source = replace(recipe.data.train[0], path=str(other))
    refused(case, replace(recipe, data=replace(recipe.data, train=(source,))), folder,
            "the files have changed since the checkpoint was written")


def test_a_checkpoint_without_one_of_the_moments_is_refused_and_leaves_every_byte(case, stopped, tmp_path):
    recipe, folder = copied(stopped, tmp_path)
    (folder / "run/checkpoints/step_00000004/optimizer-exp_avg_sq.safetensors").unlink()
    sign(folder / "run/checkpoints/step_00000004", moments=["exp_avg"])
    refused(case, recipe, folder,
            "names the optimizer's exp_avg of 27 parameters, but optim.name=adamw needs "
            "exp_avg of 27 parameters, exp_avg_sq of 27 parameters; set optim.name back")


def test_a_checkpoint_of_another_model_than_its_recipe_says_is_refused_and_leaves_every_byte(case, stopped, tmp_path):
    recipe, folder = copied(stopped, tmp_path)
    path = folder / "run/checkpoints/step_00000004/recipe.yaml"
    path.write_text(path.read_text().replace("ff: 64", "ff: 96"))
    assert "ff: 96" in path.read_text()
    sign(path.parent)
    recipe = replace(recipe, model=replace(recipe.model, ff=96))
    refused(case, recipe, folder,
            "parameter blocks.0.ff.up.weight is 64x32 there and 96x32 in this model; continue with")


def refused(case, recipe, folder, reason: str) -> None:
    before = contents(folder)
    assert len(before) > 15
    with pytest.raises(RankError, match=reason):
        run_to_end(case, recipe, folder, 2, "zero1_fp32")
    assert contents(folder) == before


def copied(stopped, place):
    recipe, folder = stopped
    shutil.copytree(folder, place / "copy")
    return recipe, place / "copy"


def contents(folder) -> dict[str, str]:
    """Every file's hash and every folder's name."""
    inside = {path: path.relative_to(folder / "run") for path in sorted((folder / "run").rglob("*"))}
    return {str(name): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for path, name in inside.items() if name.parts[0] not in NOT_OF_THE_RUN}

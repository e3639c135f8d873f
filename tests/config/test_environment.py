"""The section `environment`: taken before torch is there, the shell wins, and what cannot take effect is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from recipe_texts import SMALLEST, recipe_file
from small_run import ROOT, environment, lay_out

from dstrain.config.environment import take_environment
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe, recipe_from_dict, recipe_to_dict


def test_values_are_text_and_whole_numbers_stand_for_their_digits(tmp_path):
    path = recipe_file(tmp_path, SMALLEST + "environment: {NCCL_SOCKET_IFNAME: ib0, HF_HUB_OFFLINE: 1}\n")
    recipe = load_recipe(path, ["environment.NCCL_DEBUG=INFO", "environment.B= x # y "])
    assert recipe.environment == {"NCCL_SOCKET_IFNAME": "ib0", "HF_HUB_OFFLINE": "1", "NCCL_DEBUG": "INFO",
                                  "B": " x # y "}
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


@pytest.mark.parametrize("line, words", [
    ("environment: ib0", "must be a section"),
    ("environment: {A: 1.50}", "put it in quotes"),
    ("environment: {A: true}", "put it in quotes"),
    ("environment: {A: }", "empty (null)"),
    ("environment: {A: [1]}", "must be text"),
    ("environment: {A B: x}", "no name of a variable"),
    ("environment: {RANK: 0}", "is the launcher's"),
    ("environment: {WORLD_SIZE: 2}", "is the launcher's"),
    ("environment: {LOCAL_RANK: 0}", "is the launcher's"),
    ("environment: {MASTER_PORT: 29500}", "is the launcher's"),
    ("environment: {CUDA_VISIBLE_DEVICES: 0}", "is the launcher's"),
    ("environment: {HF_TOKEN: hf_x}", "looks like a secret"),
    ("environment: {WANDB_API_KEY: x}", "looks like a secret"),
    ("environment: {db_password: x}", "looks like a secret"),
    ("environment: {LD_LIBRARY_PATH: x}", "set it in the shell"),
    ("environment: {MALLOC_ARENA_MAX: 1}", "set it in the shell"),
    ('environment: {A: "x\\ny"}', "in one line"),
])
def test_what_cannot_take_effect_or_may_not_be_kept_is_refused(tmp_path, line, words):
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file(tmp_path, SMALLEST + line + "\n"))
    said = str(caught.value)
    assert words in said and "environment" in said and f"line {len(SMALLEST.splitlines()) + 1}" in said


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH", "KEYBOARD", "OMP_NUM_THREADS"])
def test_ordinary_names_are_no_secrets(tmp_path, name):
    assert load_recipe(recipe_file(tmp_path, f"{SMALLEST}environment: {{{name}: x}}\n")).environment == {name: "x"}


def test_the_shell_wins_and_the_difference_is_one_line():
    shell = {"A": "of the shell", "B": "same"}
    said = take_environment({"A": "of the recipe", "B": "same", "C": "new"}, shell)
    assert shell == {"A": "of the shell", "B": "same", "C": "new"}
    assert "'of the shell'" in said and "'of the recipe'" in said and "\n" not in said and "B is" not in said
    assert take_environment({"C": "new"}, shell) is None


def test_train_has_it_before_torch_is_imported(tmp_path):
    """torch is stood in for by a module that ends the process with what it sees."""
    lay_out(tmp_path)
    (tmp_path / "torch.py").write_text("import os, sys\nprint('torch sees', os.environ.get('OMP_NUM_THREADS'))\n"
                                       "sys.stdout.flush()\nos._exit(7)\n")
    given = {**environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, str(ROOT / "launch/train.py"), "small.yaml", "environment.OMP_NUM_THREADS=3"]
    for shell, seen, said in (({}, "3", 0), ({"OMP_NUM_THREADS": "5"}, "5", 1)):
        given.pop("OMP_NUM_THREADS", None)
        done = subprocess.run(command, cwd=tmp_path, env={**given, **shell}, capture_output=True, text=True,
                              timeout=120)
        assert f"torch sees {seen}" in done.stdout, done.stderr
        assert done.stderr.count("'5' in the shell") == said

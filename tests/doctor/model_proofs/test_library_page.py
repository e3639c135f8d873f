"""The page on the library: its example runs, its figures are those of the code, its words are the tests'."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from dstrain.doctor import prove
from dstrain.doctor.faults.in_models import FAULTS, report_on
from dstrain.doctor.faults.toys import seeded
from dstrain.doctor.faults.wrong_models import NotShifted
from dstrain.doctor.library import MODEL_PROOFS, OWN_FUNCTIONS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "doctor-library.md").read_text(encoding="utf-8")


def test_the_example_runs():
    pytest.importorskip("transformers", reason="transformers is not installed: the example needs it")
    example, = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict = {}
    exec(compile(example, "docs/doctor-library.md", "exec"), names)
    names["test_my_model_is_trained_as_i_think"]()


def test_the_red_example_is_what_a_user_sees():
    shown, = re.findall(r"```\n(FAILED.*?)```", PAGE, flags=re.DOTALL)
    report = str(report_on(seeded(NotShifted), only=["targets"]))
    without_time = re.compile(r"module +[\d.]+ s")
    assert without_time.sub("", " ".join(shown.split())) == without_time.sub("", " ".join(report.split()))


def test_each_proof_and_each_option_is_on_the_page():
    for name in {**MODEL_PROOFS, **OWN_FUNCTIONS}:
        assert f"\n| `{name}` |" in PAGE, name
    for option in list(inspect.signature(prove).parameters)[2:]:
        assert f"`{option}=" in PAGE, option


def test_the_number_of_faults_is_the_true_one():
    assert f"has {len(FAULTS)} models with one fault each" in PAGE

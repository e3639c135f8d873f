"""requirements.txt pins exactly what pyproject.toml asks for, each package has a use, all of dstrain is installed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What stands in requirements.txt but is not imported by name, and why it is there.
NOT_IMPORTED = {
    "setuptools": "builds the editable install (pyproject.toml)",
    "datasets": "streams from the hub",
}
IMPORT_NAMES = {"pyyaml": "yaml", "huggingface-hub": "huggingface_hub"}


def pinned() -> dict[str, set[str]]:
    """Name to exact versions (two where Python 3.10 needs an older one)."""
    pins: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.split("#")[0].strip():
            name, version = re.fullmatch(r"([a-z0-9-]+)==([0-9.]+)(?:;[^#]*)? *(?:#.*)?", line).groups()
            pins.setdefault(name, set()).add(version)
    return pins


def asked() -> dict[str, str]:
    """Name to lower bound: of pyproject.toml's dependencies, tests' and build's included."""
    text = (ROOT / "pyproject.toml").read_text()  # Python 3.10 has no tomllib
    lists = re.findall(r"^(?:requires|dependencies|test) = \[(.*?)\]", text, re.M | re.S)
    assert len(lists) == 3
    return dict(re.findall(r'"([a-z0-9-]+)>=([0-9.]+)"', " ".join(lists)))


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_the_same_packages_are_pinned_and_asked_for():
    assert set(pinned()) == set(asked())


@pytest.mark.parametrize("name", sorted(asked()))
def test_every_pin_is_within_its_lower_bound(name):
    assert all(version(pin) >= version(asked()[name]) for pin in pinned()[name])


def test_torch_is_asked_for_from_2_11_and_comes_before_deepspeed():
    assert version(asked()["torch"]) == (2, 11)
    names = list(pinned())
    assert names.index("torch") < names.index("deepspeed")


def test_every_requirement_is_used():
    imported = set()
    for file in [*ROOT.glob("dstrain/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported.add(node.module.split(".")[0])
    unused = {name for name in pinned() if IMPORT_NAMES.get(name, name) not in imported} - set(NOT_IMPORTED)
    assert not unused


def test_every_package_folder_is_installed():
    folders = {str(init.parent.relative_to(ROOT)).replace("/", ".") for init in ROOT.glob("dstrain/**/__init__.py")}
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S).group(1)
    assert set(re.findall(r'"([a-z_.]+)"', listed)) == folders | {"dstrain.ds_configs"}


def test_packaged_files_are_where_pyproject_takes_them_from():
    assert list(ROOT.glob("dstrain/recipes/*.yaml")) and list(ROOT.glob("ds_configs/*.json"))

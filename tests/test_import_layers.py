"""Who may import whom, from the ground up: the table of the design, read from the imports themselves."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dstrain"

BELOW_COMMANDS = {"cluster", "doctor", "families", "train", "infer", "runtime", "guard", "models", "data", "objectives",
                  "nn", "config"}

MAY_IMPORT = {
    "config": set(),
    "nn": set(),
    "data": {"nn", "config"},
    "models": {"nn", "config"},
    "objectives": {"nn", "config"},
    "guard": {"config"},
    "cluster": {"guard", "config"},
    "runtime": {"guard", "nn", "config"},
    "train": {"runtime", "guard", "objectives", "data", "nn", "config"},
    "infer": {"runtime", "objectives", "data", "nn", "config"},
    "families": {"models", "train", "infer", "data", "objectives", "nn", "config"},
    "export": {"models", "runtime", "data", "nn", "config"},
    "doctor": BELOW_COMMANDS - {"cluster", "doctor"},
    "commands": BELOW_COMMANDS | {"export"},
    "__main__": BELOW_COMMANDS | {"commands", "export"},
    "__init__": set(),
}
"""parts of dstrain: what each may import besides itself. The trainer and inference never import a concrete model"""

FOREIGN = {"config": {"yaml"}, "cluster": {"yaml"}, "guard": set(), "nn": {"torch"}, "__init__": set()}
"""where only these packages beside the standard library may be imported"""


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it the import stands."""
    names = set()
    package = ["dstrain", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def broken_rules(path: Path, names: set[str]) -> list[str]:
    here, where = part_of(path), path.relative_to(PACKAGE).as_posix()
    broken = []
    for name in sorted(names):
        top, *rest = name.split(".")
        if top == "dstrain":
            part = rest[0] if rest else "__init__"
            if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file():
                if part != here and part not in MAY_IMPORT[here]:
                    broken.append(f"{where} imports {name}")
        elif top == "deepspeed" and here != "runtime" and where != "nn/experts.py":
            broken.append(f"{where} imports {name}: only runtime and nn/experts.py import deepspeed")
        elif here in FOREIGN and where != "nn/experts.py" and top not in sys.stdlib_module_names | FOREIGN[here]:
            broken.append(f"{where} imports {name}")
    return broken


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_part_has_its_place_in_the_table():
    assert {part_of(path) for path in FILES} <= set(MAY_IMPORT)
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_from_below(path):
    assert broken_rules(path, imports_of(path)) == []


@pytest.mark.parametrize("where, name", [
    ("config/load.py", "torch"), ("config/load.py", "dstrain.data"), ("nn/init.py", "deepspeed.moe"),
    ("nn/init.py", "dstrain.config.schema"), ("nn/init.py", "numpy"), ("models/x.py", "dstrain.data.collate.Batch"),
    ("objectives/x.py", "dstrain.data.collate.Batch"), ("train/step.py", "dstrain.models.decoder_lm"),
    ("infer/x.py", "deepspeed"), ("runtime/engine.py", "dstrain.models"),
    ("doctor/x.py", "dstrain.__main__"), ("commands/x.py", "dstrain.__main__"),
    ("train/x.py", "dstrain.families"), ("families.py", "dstrain.runtime"),
])
def test_a_forbidden_import_would_be_found(where, name):
    exists = (PACKAGE / name.split(".")[1]).is_dir() if name.startswith("dstrain.") else True
    if not exists and not (PACKAGE / f"{name.split('.')[1]}.py").is_file():
        pytest.skip(f"{name} is not written yet")
    assert broken_rules(PACKAGE / where, {name})


def test_the_allowed_imports_of_the_table_are_allowed():
    assert broken_rules(PACKAGE / "runtime/engine.py", {"deepspeed.comm", "dstrain.config.schema", "torch"}) == []
    assert broken_rules(PACKAGE / "nn/experts.py", {"deepspeed.moe"}) == []
    assert broken_rules(PACKAGE / "doctor/proofs.py", {"dstrain.families.FAMILIES", "dstrain.train.step"}) == []

"""Every field of the recipe says in one text under it what it means."""

from __future__ import annotations

import ast
from pathlib import Path

from dstrain.config import arc, moe, schema, translate

TREES = [ast.parse(Path(module.__file__).read_text(encoding="utf-8")) for module in (schema, translate, moe, arc)]
CLASSES = [node for tree in TREES for node in tree.body if isinstance(node, ast.ClassDef)]


def fields_without_text(kind: ast.ClassDef) -> list[str]:
    following = [*kind.body[1:], None]
    return [f"{kind.name}.{node.target.id}" for node, after in zip(kind.body, following)
            if isinstance(node, ast.AnnAssign) and not _is_text(after)]


def _is_text(node: ast.stmt | None) -> bool:
    return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str) and len(node.value.value) > 5)


def test_every_field_of_the_schema_is_followed_by_its_meaning():
    assert sum(isinstance(node, ast.AnnAssign) for kind in CLASSES for node in kind.body) > 80
    assert [name for kind in CLASSES for name in fields_without_text(kind)] == []


def test_a_field_without_text_would_be_found():
    kind, = ast.parse('class A:\n    x: int = 1\n    """what x is"""\n    y: int = 2\n').body
    assert fields_without_text(kind) == ["A.y"]

"""Files of tests are imported by their names alone: two of one name would be one, whichever comes first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parent
BY_FOLDER = {"conftest.py", "__init__.py"}


def test_no_two_files_of_tests_have_one_name():
    files = Counter(path.name for path in TESTS.rglob("*.py") if "__pycache__" not in path.parts)
    assert len(files) > 100
    assert [name for name, count in files.items() if count > 1 and name not in BY_FOLDER] == []

"""Lines of Python fit a screen: at most 120 characters."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("dstrain", "launch", "tests")
MOST = 120


def test_no_line_of_python_is_longer_than_120_characters():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    too_long = [f"{path.relative_to(ROOT)}:{number}: {len(line)} characters" for path in files
                for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1) if len(line) > MOST]
    assert not too_long, "\n".join(too_long)

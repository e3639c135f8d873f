"""Stands in for the programs that the launch scripts call: each stub writes down how it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

RECORDER = """#!{python}
import json, os, sys
with open({record!r}, "a") as record:
    record.write(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}) + "\\n")
{then}
"""


def write_stub(folder: Path, name: str, then: str = "") -> Path:
    """A program `name` in `folder` that records its arguments, environment and folder, then does `then` (Python)."""
    folder.mkdir(parents=True, exist_ok=True)
    stub = folder / name
    stub.write_text(RECORDER.format(python=sys.executable, record=str(record_of(folder, name)), then=then))
    stub.chmod(0o755)
    return stub


def record_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.calls"


def calls(folder: Path, name: str) -> list[dict]:
    record = record_of(folder, name)
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def copy_of_the_scripts(folder: Path) -> Path:
    """A repository with launch/ and slurm/, the real dstrain, and a .venv whose deepspeed is a stub."""
    for script in [*(ROOT / "launch").iterdir(), *(ROOT / "slurm").iterdir()]:
        if script.is_file():
            copy = folder / script.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(script.read_bytes())
    binaries = folder / ".venv" / "bin"
    write_stub(binaries, "deepspeed")
    write_stub(folder / "launch", "run_deepspeed.py")
    (folder / "dstrain").symlink_to(ROOT / "dstrain")
    (folder / "ds_configs").symlink_to(ROOT / "ds_configs")
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    return folder


def run_script(command: list[str], cwd: Path, path_first: Path | None = None,
               **environment: str) -> subprocess.CompletedProcess:
    """Runs it in a bare environment, so that no launcher's variable of this process slips in."""
    path = os.environ["PATH"] if path_first is None else f"{path_first}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, cwd=cwd, env={"PATH": path, "HOME": str(cwd), **environment},
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)

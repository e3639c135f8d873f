"""The process of one check: its crash, its memory and its settings are its own."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bench"), str(HERE.parents[1])]
warnings.filterwarnings("ignore")

from catalogue import CHECKS  # noqa: E402
from frame import Here, write_json  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--outcome", type=Path, required=True)
    arguments = parser.parse_args()
    check = next(check for check in CHECKS if check.name == arguments.name)
    show = importlib.import_module(check.module).show
    with tempfile.TemporaryDirectory(prefix=f"dstrain-gpu-{check.name}-") as folder:
        os.chdir(folder)
        here = Here(arguments.rehearse, Path(folder), arguments.notes)
        outcome = show(here) if check.choice is None else show(here, check.choice)
        os.chdir("/")
    write_json(arguments.outcome, dataclasses.asdict(outcome))
    sys.stdout.flush()
    os._exit(0)  # the outcome is written: nothing that a library does at exit may take it back, or hang


if __name__ == "__main__":
    main()

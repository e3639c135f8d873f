"""A run of seconds on two small text files, for tests that start whole processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from dstrain.runtime.checkpoint.manifest import (
    BEFORE_MANIFEST_SHA256, GUARD, MANIFEST, files_entry, guard_of, hashes, pieces_of)

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """# a run of seconds
family: lm
model: {width: 32, heads: 2, layers: 2, ff: 64, dropout: 0.1}
tokenizer: bytes
data: {train: [{path: corpus.txt, documents: lines}], valid: [{path: valid.txt, documents: lines}], lanes: 4}
batch: {rows: 8, micro_rows: 4, length: 32}
schedule: {warmup_steps: 2}
run: {name: small, steps: 6}
valid: {every: 3}
checkpoint: {every: 2, keep: 2}
log: {every: 2, samples: 1}
"""


def lay_out(folder: Path) -> Path:
    """The recipe and its text in an empty folder."""
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "corpus.txt").write_text("".join(f"line {n} says that {n} plus one is {n + 1}\n" for n in range(400)))
    (folder / "valid.txt").write_text("one plus one is two\nand that is all\n")
    return folder


def environment() -> dict[str, str]:
    """dstrain and the launchers of this very Python, on the CPU, unbuffered."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1", "DS_ACCELERATOR": "cpu"}


def sign(checkpoint: Path, **changes) -> None:
    """Write the manifest of a checkpoint again, for what its files are now: as if it had been saved like this."""
    before = json.loads((checkpoint / MANIFEST).read_text())
    kept = [piece for piece in pieces_of(checkpoint) if piece.name not in (MANIFEST, GUARD)]
    files = files_entry(dict(zip(kept, hashes(checkpoint, kept), strict=True)))
    text = json.dumps({**before, "files": files, **changes}).encode()
    (checkpoint / MANIFEST).write_bytes(text)
    (checkpoint / GUARD).write_bytes(guard_of(text))


def as_format_1(checkpoint: Path) -> None:
    """Turn a checkpoint into what dstrain wrote before pieces, guard and moments' names: one hash a file."""
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    old = {name: {"bytes": entry["bytes"], "sha256": entry["sha256"][0]} for name, entry in files.items()}
    (checkpoint / MANIFEST).write_text(json.dumps({"format": BEFORE_MANIFEST_SHA256, "files": old}))
    (checkpoint / GUARD).unlink()


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]

"""What a checkpoint consists of, written down with it: the size and SHA-256 of every file. No torch here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FORMAT = 1
BEFORE_MUON = ("exp_avg", "exp_avg_sq")
"""the moments of a checkpoint whose manifest does not name them"""
WEIGHTS_FILE = "model.safetensors"


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in one line; None if nothing is."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            return f"it has format {manifest['format']}, this dstrain reads format {FORMAT}"
        promised = manifest["files"]
        for name, entry in promised.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if _sha256(path) != entry["sha256"]:
                return f"{name} has other contents than when it was written (SHA-256)"
        moments = map(moment_file, manifest.get("moments", BEFORE_MUON))
        unlisted = {WEIGHTS_FILE, *moments, "state.json", "recipe.yaml"} - promised.keys()
        if unlisted:
            return f"manifest.json does not list {', '.join(sorted(unlisted))}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest.json cannot be read ({error})"
    return None


def hashes(folder: Path) -> dict[str, dict]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}


def moment_file(key: str) -> str:
    return f"optimizer-{key}.safetensors"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

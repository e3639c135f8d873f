"""What a checkpoint consists of, written down with it: the size of every file and the SHA-256 of its pieces.

    manifest.json     {"format", "step", "moments", "piece_bytes", "files": {name: {"bytes", "sha256": [one a piece]}},
                       "recipe", "shape", "versions"}
    manifest.sha256   of manifest.json itself: `sha256sum -c manifest.sha256`

Pieces let many threads and all ranks hash one large file together; a file of one piece has its plain SHA-256. Together
the two files guard every byte of a checkpoint, their own included. No torch here: a login node can verify.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple

FORMAT = 2
BEFORE_MANIFEST_SHA256 = 1
"""the format whose manifest nothing guards, with one SHA-256 a file"""
BEFORE_MUON = ("exp_avg", "exp_avg_sq")
"""the moments of a checkpoint whose manifest does not name them"""
WEIGHTS_FILE = "model.safetensors"
MANIFEST, GUARD = "manifest.json", "manifest.sha256"
PIECE_BYTES = 64 << 20
MOST_MANIFEST_BYTES = 64 << 20
"""about 300,000 pieces: 20 TB of checkpoint"""
BLOCK_BYTES = 1 << 20


class Piece(NamedTuple):
    """Bytes first .. end of a file in the checkpoint's folder."""

    name: str
    first: int
    end: int


class Damaged(Exception):
    """Names the file and what is wrong with it."""


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in one line; None if nothing is. Reads no more than its files promise."""
    try:
        return first_fault(folder, promises(folder))
    except Damaged as damage:
        return str(damage)


def promises(folder: Path) -> dict[Piece, str]:
    """The SHA-256 that each piece of each file must have, once the manifest and all sizes were found good."""
    manifest = read_manifest(folder)
    try:
        return {piece: digest for name, entry in manifest["files"].items()
                for piece, digest in _pieces(folder, name, entry, manifest)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} is not one of dstrain's ({type(error).__name__}: {error})") from None


def first_fault(folder: Path, promised: dict[Piece, str]) -> str | None:
    """The first of these pieces that is not what was promised."""
    try:
        for (piece, promise), digest in zip(promised.items(), hashes(folder, list(promised)), strict=True):
            if digest != promise:
                where = f", bytes {piece.first:,} to {piece.end:,}" if piece.first else ""
                return f"{piece.name} has other contents than when it was written (SHA-256{where})"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror or error}"
    return None


def read_manifest(folder: Path) -> dict:
    """The manifest, if it is what its guard says and lists what every checkpoint has."""
    try:
        text = _read_small(folder / MANIFEST)
        manifest = json.loads(text)
        version = manifest["format"]
        if version not in (BEFORE_MANIFEST_SHA256, FORMAT):
            raise Damaged(f"it has format {str(version)[:20]}, this dstrain reads formats up to {FORMAT}")
        if version == FORMAT and _read_small(folder / GUARD) != guard_of(text):
            raise Damaged(f"{MANIFEST} has other contents than when it was written ({GUARD})")
        moments = map(moment_file, manifest.get("moments", BEFORE_MUON))
        unlisted = {WEIGHTS_FILE, *moments, "state.json", "recipe.yaml"} - manifest["files"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({_short(error)})") from None
    if unlisted:
        raise Damaged(f"{MANIFEST} does not list {', '.join(sorted(unlisted))}")
    return manifest


def pieces_of(folder: Path, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """All files of a folder, cut into pieces; in the same order for everybody who looks."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [Piece(str(path.relative_to(folder)), first, min(first + piece_bytes, size))
            for path in files for size in [path.stat().st_size] for first in range(0, max(1, size), piece_bytes)]


def hashes(folder: Path, pieces: list[Piece]) -> list[str]:
    """The SHA-256 of each piece, by as many threads as there are cores for them."""
    with ThreadPoolExecutor(max(1, min(8, len(os.sched_getaffinity(0)), len(pieces)))) as threads:
        return list(threads.map(lambda piece: _sha256(folder, piece), pieces))


def files_entry(hashed: dict[Piece, str]) -> dict[str, dict]:
    """The manifest's "files", of all pieces in their order."""
    entry: dict[str, dict] = {}
    for piece, digest in hashed.items():
        of_file = entry.setdefault(piece.name, {"bytes": 0, "sha256": []})
        of_file["bytes"] = piece.end
        of_file["sha256"].append(digest)
    return entry


def guard_of(manifest: bytes) -> bytes:
    """What manifest.sha256 holds, in the form that sha256sum reads."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def moment_file(key: str) -> str:
    return f"optimizer-{key}.safetensors"


def _pieces(folder: Path, name: str, entry: dict, manifest: dict) -> list[tuple[Piece, str]]:
    """One file's pieces and their promised hashes. The file is looked at only as far as its size."""
    size, digests = entry["bytes"], entry["sha256"]
    if isinstance(digests, str):  # format 1
        digests, piece_bytes = [digests], max(1, size)
    else:
        piece_bytes = manifest["piece_bytes"]
    if type(size) is not int or type(piece_bytes) is not int or size < 0 or piece_bytes < 1:
        raise ValueError(f"sizes of {name}")
    if len(digests) != max(1, -(-size // piece_bytes)):
        raise ValueError(f"number of hashes of {name}")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the name {name[:60]!r} leads out of the checkpoint")
    try:
        if not (folder / path).is_file():
            raise Damaged(f"{name} is missing")
        there = (folder / path).stat().st_size
    except OSError as error:
        raise Damaged(f"{name} cannot be read: {error.strerror}") from None
    if there != size:
        raise Damaged(f"{name} has {there} bytes instead of {size}")
    return [(Piece(name, first, min(first + piece_bytes, size)), digest)
            for first, digest in zip(range(0, max(1, size), piece_bytes), digests)]


def _sha256(folder: Path, piece: Piece) -> str:
    digest, left = hashlib.sha256(), piece.end - piece.first
    with open(folder / piece.name, "rb", buffering=0) as file:
        file.seek(piece.first)
        while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _read_small(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MOST_MANIFEST_BYTES:
        raise ValueError(f"{path.name} of {size} bytes")
    return path.read_bytes()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]

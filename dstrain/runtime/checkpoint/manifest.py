"""What a checkpoint consists of, written down with it: the size of every file and the SHA-256 of its pieces.

    manifest.json     {"format", "step", "moments", "piece_bytes", "files": {name: {"bytes", "sha256": [one a piece]}},
                       "recipe", "shape", "versions"}
    manifest.sha256   of manifest.json itself: `sha256sum -c manifest.sha256`

Pieces let many threads and all ranks hash one large file together; a file of one piece has its plain SHA-256. Together
the two files guard every byte of a checkpoint, their own included. No torch here: a login node can verify.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Callable, Iterable, Iterator, NamedTuple

from dstrain.runtime.checkpoint import disk

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
MOST_THREADS = 16
_SAYS_WHAT_STANDS_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ELOOP,
                           errno.ENAMETOOLONG)


class Piece(NamedTuple):
    """Bytes first .. end of a file in the checkpoint's folder."""

    name: str
    first: int
    end: int


class Damaged(Exception):
    """Names the file and what is wrong with it."""


class Unreadable(Damaged):
    """The disk, or a permission, does not let it be read: it may be as good as ever."""


def verify(folder: Path, hashed: Callable[[int], None] = lambda size: None) -> str | None:
    """What is wrong with a checkpoint, in one line; None if nothing is. Reads no more than its files promise.

    `hashed` hears of every piece's bytes, from many threads.
    """
    try:
        return first_fault(folder, promises(folder), hashed)
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


def first_fault(folder: Path, promised: dict[Piece, str],
                hashed: Callable[[int], None] = lambda size: None) -> str | None:
    """The first of these pieces that is not what was promised. Unreadable where the disk does not give one."""
    try:
        with contextlib.closing(hashes(folder, promised, hashed)) as digests:
            for (piece, promise), digest in zip(promised.items(), digests, strict=True):
                if digest != promise:
                    where = f", bytes {piece.first:,} to {piece.end:,}" if piece.first else ""
                    return _one_line(f"{piece.name} has other contents than when it was written (SHA-256{where})")
    except OSError as error:
        fault = _unread(error, error.filename or str(folder))
        if isinstance(fault, Unreadable):
            raise fault from error
        return str(fault)
    return None


def read_manifest(folder: Path) -> dict:
    """The manifest, if it is what its guard says and lists what every checkpoint has."""
    try:
        text = _read_small(folder / MANIFEST)
        guarded = (folder / GUARD).exists()
        if guarded and _read_small(folder / GUARD) != guard_of(text):
            raise Damaged(f"{MANIFEST} has other contents than when it was written ({GUARD})")
        manifest = json.loads(text, parse_int=_int, parse_float=_no_number, parse_constant=_no_number)
        version = manifest["format"]
        if type(version) is not int or version not in (BEFORE_MANIFEST_SHA256, FORMAT):
            raise Damaged(f"it has format {version!r:.20}, this dstrain reads formats up to {FORMAT}")
        if guarded != (version == FORMAT):
            raise Damaged(f"{GUARD} {'does not belong to its format' if guarded else 'is missing'}")
        moments = list(map(moment_file, manifest.get("moments", BEFORE_MUON)))
        unlisted = {WEIGHTS_FILE, *moments, "state.json", "recipe.yaml"} - manifest["files"].keys()
    except OSError as error:
        raise _unread(error, MANIFEST) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(_one_line(f"{MANIFEST} cannot be read ({type(error).__name__}: {error})")) from None
    if unlisted:
        raise Damaged(_one_line(f"{MANIFEST} does not list {', '.join(sorted(unlisted))}"))
    _refuse_another_name(folder.name, manifest.get("step"))
    return manifest


def pieces_of(folder: Path, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """All files of a folder, cut into pieces."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [Piece(str(path.relative_to(folder)), first, min(first + piece_bytes, size))
            for path in files for size in [path.stat().st_size] for first in range(0, max(1, size), piece_bytes)]


def share_of(pieces: Iterable[Piece], rank: int, world: int) -> list[Piece]:
    """What one of `world` ranks hashes: each piece is one rank's, and all have about as many bytes."""
    return sorted(pieces, key=lambda piece: piece.first - piece.end)[rank::world]


def hashes(folder: Path, pieces: Iterable[Piece],
           hashed: Callable[[int], None] = lambda size: None) -> Iterator[str]:
    """The SHA-256 of each piece, in their order, by as many threads as this process has cores for."""
    def digest(piece: Piece) -> str:
        try:
            return _sha256(folder, piece)
        finally:
            hashed(piece.end - piece.first)

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", 1)))
    workers = max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // processes))
    threads = ThreadPoolExecutor(workers, thread_name_prefix="hashing")
    under_way: collections.deque[Future] = collections.deque()
    try:
        for piece in pieces:  # a few ahead, so that whoever has seen enough waits for no more than these
            under_way.append(threads.submit(digest, piece))
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def files_entry(hashed: dict[Piece, str]) -> dict[str, dict]:
    """For the manifest: of every file its size and the hashes of its pieces, in their order."""
    files: dict[str, dict] = {}
    for piece, digest in hashed.items():
        entry = files.setdefault(piece.name, {"bytes": 0, "sha256": []})
        entry["bytes"] = piece.end
        entry["sha256"].append(digest)
    return files


def guard_of(manifest: bytes) -> bytes:
    """What manifest.sha256 holds, in the form that sha256sum reads."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def moment_file(key: str) -> str:
    return f"optimizer-{key}.safetensors"


def _pieces(folder: Path, name: str, entry: dict, manifest: dict) -> list[tuple[Piece, str]]:
    """One file's pieces and their promised hashes. The file is looked at only as far as its size."""
    size, digests, whole = entry["bytes"], entry["sha256"], manifest["format"] == BEFORE_MANIFEST_SHA256
    piece_bytes = max(1, size) if whole else manifest["piece_bytes"]
    digests = [digests] if whole else digests
    if type(size) is not int or type(piece_bytes) is not int or size < 0 or piece_bytes < 1:
        raise ValueError(f"sizes of {_one_line(name)}")
    if type(digests) is not list or len(digests) != max(1, -(-size // piece_bytes)):
        raise ValueError(f"number of hashes of {_one_line(name)}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name:
        raise ValueError(f"the name {_one_line(name)} leads out of the checkpoint")
    try:
        there = os.stat(folder / path)
    except FileNotFoundError:
        raise Damaged(_one_line(f"{name} is missing")) from None
    except OSError as error:
        raise _unread(error, name) from None
    if not stat.S_ISREG(there.st_mode):
        raise Damaged(_one_line(f"{name} is not a file"))
    if there.st_size != size:
        raise Damaged(_one_line(f"{name} has {there.st_size} bytes instead of {size}"))
    return [(Piece(name, first, min(first + piece_bytes, size)), digest)
            for first, digest in zip(range(0, max(1, size), piece_bytes), digests)]


def _refuse_another_name(name: str, step: object) -> None:
    """A checkpoint that was renamed by hand would be taken for one of another step. A copy may have any other name."""
    digits = name.rpartition("step_")[2]
    if "step_" in name and digits.isdecimal() and type(step) is int and int(digits) != step:
        raise Damaged(f"it is of step {step}, but has the name of another step: give it the name step_{step:08d} again")


def _unread(error: OSError, name: str) -> Damaged:
    kind = Damaged if error.errno in _SAYS_WHAT_STANDS_THERE else Unreadable
    return kind(_one_line(f"{name} cannot be read: {error.strerror or error}"))


def _sha256(folder: Path, piece: Piece) -> str:
    digest, at, buffer = hashlib.sha256(), piece.first, memoryview(bytearray(BLOCK_BYTES))
    file = os.open(folder / piece.name, os.O_RDONLY | os.O_NONBLOCK)  # never waits, whatever has taken its name
    try:
        while at < piece.end:
            with disk.named(folder / piece.name):
                got = disk.read_at(file, at, buffer[:piece.end - at])
            if got == 0:  # shorter than it was a moment ago
                break
            digest.update(buffer[:got])
            at += got
    finally:
        os.close(file)
    return digest.hexdigest()


def _read_small(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path.name} is not a file")
        if about.st_size > MOST_MANIFEST_BYTES:
            raise ValueError(f"{path.name} has {about.st_size:,} bytes")
        return file.read(MOST_MANIFEST_BYTES)


def _int(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_number(text: str) -> None:
    raise ValueError(f"the number {text[:20]}")


def _one_line(text: str) -> str:
    """Without what a damaged name may hold: line ends, terminal commands, thousands of letters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 300 else f"{text[:120]}...{text[-150:]}"

"""Every byte of a checkpoint is guarded, and what stands in a manifest is believed in nothing."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest
import torch

from dstrain.runtime.checkpoint import manifest as manifests
from dstrain.runtime.checkpoint.folder import newest_good
from dstrain.runtime.checkpoint.manifest import (
    GUARD, MANIFEST, first_fault, guard_of, hashes, pieces_of, promises, share_of, verify)
from dstrain.runtime.checkpoint.saving import write
from dstrain.runtime.checkpoint.snapshot import Part, Snapshot
from dstrain.runtime.dist import lone_rank

SHAPES = {"w": (3, 5), "b": (4,)}
FILES = ("model.safetensors", "optimizer-exp_avg.safetensors", "optimizer-exp_avg_sq.safetensors")


def snapshot(step, fill=0.0):
    parts = [Part(file, name, 0, torch.full((torch.Size(shape).numel(),), fill + number))
             for number, file in enumerate(FILES) for name, shape in SHAPES.items()]
    return Snapshot(step, {"step": step}, {file: SHAPES for file in FILES}, ["exp_avg", "exp_avg_sq"], parts, {})


def side_files(folder):
    (folder / "recipe.yaml").write_text("family: lm\n")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")


@pytest.fixture
def saved(tmp_path):
    return write(tmp_path, snapshot(6), side_files, lone_rank())


def signed(folder, **changes):
    """Lies that the guard file knows nothing of."""
    text = json.dumps({**json.loads((folder / MANIFEST).read_bytes()), **changes}).encode()
    raw_signed(folder, text)


def raw_signed(folder, text):
    (folder / MANIFEST).write_bytes(text)
    (folder / GUARD).write_bytes(guard_of(text))


def test_a_flipped_bit_in_any_byte_of_any_file_is_found(saved):
    assert verify(saved) is None
    flipped = 0
    for path in sorted(path for path in saved.rglob("*") if path.is_file()):
        good = path.read_bytes()
        for number in range(len(good)):
            path.write_bytes(good[:number] + bytes([good[number] ^ 1 << number % 8]) + good[number + 1:])
            assert verify(saved) is not None, f"bit {number % 8} of byte {number} of {path.name}"
            flipped += 1
        path.write_bytes(good)
    assert verify(saved) is None and flipped > 1500


def test_sha256sum_checks_the_manifest_and_a_file_of_one_piece_has_its_plain_sum(saved):
    assert subprocess.run(["sha256sum", "-c", GUARD], cwd=saved, capture_output=True).returncode == 0
    said = subprocess.run(["sha256sum", "model.safetensors"], cwd=saved, capture_output=True, text=True).stdout
    assert [said.split()[0]] == json.loads((saved / MANIFEST).read_bytes())["files"]["model.safetensors"]["sha256"]


ENTRY = {"bytes": 10**15, "sha256": ["0" * 64] * 3}


@pytest.mark.parametrize("changes, said", [
    ({"files": {"../../../../etc/passwd": ENTRY}}, "does not list"),
    ({"format": 3}, "reads formats up to 2"),
    ({"format": True}, "format True"),
    ({"format": 1}, "does not belong to its format"),
    ({"piece_bytes": 0}, "sizes of"),
    ({"piece_bytes": "64"}, "sizes of"),
    ({"moments": 7}, "cannot be read"),
    ({"moments": ["momentum\n\x1b[2J"]}, "does not list optimizer-momentum??[2J.safetensors"),
])
def test_a_manifest_that_lies_is_an_error_in_one_line(saved, changes, said):
    signed(saved, **changes)
    assert_said(saved, said)


@pytest.mark.parametrize("name, entry, said", [
    ("../../../../etc/passwd", ENTRY, "number of hashes"),
    ("../../../../etc/passwd", {"bytes": 1, "sha256": ["0" * 64]}, "leads out of the checkpoint"),
    ("/etc/passwd", {"bytes": 1, "sha256": ["0" * 64]}, "leads out of the checkpoint"),
    ("x" * 5000, {"bytes": 1, "sha256": ["0" * 64]}, "cannot be read"),
    ("a\nb", {"bytes": 1, "sha256": ["0" * 64]}, "a?b is missing"),
    ("nul\0", {"bytes": 1, "sha256": ["0" * 64]}, "not one of dstrain's"),
    ("tokenizer", {"bytes": 4096, "sha256": ["0" * 64]}, "tokenizer is not a file"),
    ("model.safetensors", {"bytes": -1, "sha256": ["0" * 64]}, "sizes of"),
    ("model.safetensors", {"bytes": 1.5, "sha256": ["0" * 64]}, "cannot be read"),
    ("model.safetensors", {"bytes": 10**15, "sha256": ["0" * 64] * -(-10**15 // 2**40)}, "number of hashes"),
    ("model.safetensors", [], "TypeError"),
    ("state.json", {"bytes": 14, "sha256": [None]}, "has other contents"),
])
def test_an_entry_that_lies_is_an_error_in_one_line(saved, name, entry, said):
    files = json.loads((saved / MANIFEST).read_bytes())["files"]
    if name == "state.json":
        entry = {**entry, "bytes": files[name]["bytes"]}
    signed(saved, files={**files, name: entry})
    assert_said(saved, said)


@pytest.mark.parametrize("text, said", [
    (b'{"format":' * 10_000, "RecursionError"),
    (b'{"format": ' + b"9" * 10_000 + b"}", "a number of 10000 digits"),
    (b'{"format": NaN}', "the number NaN"),
    (b"\xff\xfe", "cannot be read"),
    (b"[]", "cannot be read"),
    (b"", "cannot be read"),
])
def test_text_that_is_no_manifest_is_an_error_in_one_line(saved, text, said):
    raw_signed(saved, text)
    assert_said(saved, said)


def test_a_manifest_without_end_is_not_read(saved):
    with open(saved / MANIFEST, "wb") as file:
        file.truncate(10**12)
    assert_said(saved, "1,000,000,000,000 bytes")


@pytest.mark.parametrize("name", ["model.safetensors", MANIFEST, GUARD])
def test_a_pipe_in_a_files_place_does_not_hang(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    assert_said(saved, "not a file")


def test_without_its_guard_a_manifest_is_not_believed(saved):
    (saved / GUARD).unlink()
    assert_said(saved, f"{GUARD} is missing")


def assert_said(folder, said):
    began = time.monotonic()
    fault = verify(folder)
    assert time.monotonic() - began < 5.0  # a second would do, on a machine of one's own
    assert fault is not None and said in fault and fault.isprintable() and len(fault) <= 300, fault
    lines = []
    assert newest_good(folder.parent, lone_rank(), lines.append) is None and said in lines[0]


def test_a_large_file_is_hashed_in_pieces_each_once_by_one_of_the_ranks(tmp_path, monkeypatch):
    (tmp_path / "large").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "empty").write_bytes(b"")
    pieces = pieces_of(tmp_path, piece_bytes=100_000)
    assert [(piece.name, piece.first, piece.end) for piece in pieces] == [
        ("empty", 0, 0), ("large", 0, 100_000), ("large", 100_000, 200_000), ("large", 200_000, 256_000)]
    shares = [share_of(pieces, rank, 3) for rank in range(3)]
    assert sorted(piece for share in shares for piece in share) == sorted(pieces)
    promised = dict(zip(pieces, hashes(tmp_path, pieces), strict=True))
    assert first_fault(tmp_path, promised) is None
    with open(tmp_path / "large", "r+b") as file:
        file.seek(150_000)
        file.write(b"\0\0")
    assert "bytes 100,000 to 200,000" in first_fault(tmp_path, promised)


def test_who_has_seen_a_fault_reads_no_further(saved, monkeypatch):
    seen, inner = [], manifests._sha256
    monkeypatch.setattr(manifests, "_sha256", lambda folder, piece: seen.append(piece) or inner(folder, piece))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")  # one thread
    promised = promises(saved)
    state = next(piece for piece in promised if piece.name == "state.json")
    many = {state._replace(end=number): "no" for number in range(12)}
    assert first_fault(saved, many) is not None
    assert len(many) == 12 and len(seen) <= 4

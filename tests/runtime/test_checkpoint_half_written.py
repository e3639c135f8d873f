"""A write that is cut short without a word ends the save in a line that names the file, and nothing of it is kept."""

from __future__ import annotations

import os

import pytest
from test_checkpoint_bytes import side_files, snapshot

from dstrain.config.errors import Trouble
from dstrain.data.tokenizers.encodings import ByteTokenizer
from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.folder import committed
from dstrain.runtime.checkpoint.manifest import verify
from dstrain.runtime.checkpoint.saving import write
from dstrain.runtime.dist import lone_rank


def test_half_a_write_that_claims_to_be_whole_is_noticed_at_every_call(tmp_path, monkeypatch):
    inner, calls, half_at = os.pwrite, [], 0

    def pwrite(file, data, offset):
        calls.append(os.readlink(f"/proc/self/fd/{file}"))
        if len(calls) != half_at:
            return inner(file, data, offset)
        inner(file, memoryview(data)[:len(data) // 2], offset)
        return len(data)

    monkeypatch.setattr(os, "pwrite", pwrite)
    write(tmp_path / "count", snapshot(6, 1.0), side_files, lone_rank())
    last, noticed = len(calls), set()
    for half_at in range(1, last + 1):
        calls.clear()
        folder = tmp_path / str(half_at)
        try:
            write(folder, snapshot(6, 1.0), side_files, lone_rank())
        except Trouble as trouble:
            assert f"what was written reads back otherwise ({calls[-1]})" in str(trouble) and "\n" not in str(trouble)
            noticed.add(os.path.basename(calls[-1]))
        else:
            raise AssertionError(f"call {half_at}, {calls[half_at - 1]}: not noticed")
        assert committed(folder) == [] or calls[-1].endswith("latest") and verify(committed(folder)[0]) is None
    assert last > 12 and {"model.safetensors", "state.json", "manifest.json", "manifest.sha256",
                          ".making_latest"} <= noticed


def test_half_a_tokenizer_is_noticed(tmp_path, monkeypatch):
    def write_bytes(path, data):
        with open(path, "wb") as file:
            file.write(data[:len(data) // 2])

    monkeypatch.setattr("pathlib.Path.write_bytes", write_bytes)
    with pytest.raises(OSError, match=r"reads back otherwise: '.*tokenizer.*json'"):
        ByteTokenizer().save(tmp_path)


def test_a_read_that_gives_less_than_there_is_is_gone_on_with(tmp_path, monkeypatch):
    inner = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: inner(file, [memoryview(buffers[0])[:7]], at))
    disk.write_file(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_an_error_on_a_descriptor_names_the_file(tmp_path, monkeypatch):
    def full(file, data, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError) as told:
        disk.write_file(tmp_path / "file", b"data")
    assert told.value.filename == str(tmp_path / "file")

"""The files of a checkpoint: plain safetensors, written by ranges, and never believed without a look."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dstrain.runtime.checkpoint.tensor_file import BadTensorFile, TensorFile, create, write_ranges

SHAPES = {"b.weight": (3, 5), "a.bias": (4,), "scalar": (), "none": (0, 7)}


@pytest.fixture
def tensors():
    return {name: torch.arange(max(1, len(name) * 9), dtype=torch.float32)[:torch.Size(shape).numel()].view(shape) + 0.5
            for name, shape in SHAPES.items()}


def test_ranges_written_by_several_ranks_make_one_file_that_safetensors_reads(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    create(path, SHAPES)
    flat = {name: tensor.reshape(-1) for name, tensor in tensors.items()}
    write_ranges(path, [("b.weight", 0, flat["b.weight"][:7]), ("scalar", 0, flat["scalar"])])
    write_ranges(path, [("b.weight", 7, flat["b.weight"][7:]), ("a.bias", 0, flat["a.bias"].double())])
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_reads_what_safetensors_wrote(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = TensorFile(tmp_path / "x.safetensors")
    assert file.shapes == SHAPES
    assert all(torch.equal(file.tensor(name), tensors[name]) for name in tensors)


@pytest.mark.parametrize("harm", [
    lambda data, header: data[:4], lambda data, header: b"", lambda data, header: data[:-1],
    lambda data, header: (2**40).to_bytes(8, "little") + data[8:],
    lambda data, header: data[:8] + b"[" + data[9:],
    lambda data, header: data.replace(b'"F32"', b'"F16"'),
    lambda data, header: data.replace(b"[3,5]", b"[5,5]"),
    lambda data, header: data.replace(b'"data_offsets"', b'"data_offsetz"'),
])
def test_a_lying_or_torn_file_is_an_error_that_names_it(tmp_path, tensors, harm):
    path = tmp_path / "x.safetensors"
    create(path, SHAPES)
    data = path.read_bytes()
    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
    path.write_bytes(harm(data, header))
    with pytest.raises(BadTensorFile, match="x.safetensors"):
        TensorFile(path)


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    create(tmp_path / "x.safetensors", SHAPES)
    with pytest.raises(BadTensorFile, match="'c'"):
        TensorFile(tmp_path / "x.safetensors").tensor("c")

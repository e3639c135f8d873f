"""A full or unusable place is the user's to see to: said in a line, before any proof where that can be."""

from __future__ import annotations

import errno
import os
import traceback

import pytest
from small_run import lay_out

from dstrain.__main__ import main
from dstrain.config.certificate import FILE
from dstrain.config.errors import Trouble, UserError
from dstrain.config.load import load_recipe
from dstrain.doctor.certificate import certificate, write_certificate
from dstrain.doctor.examined import examined
from dstrain.runtime.rank_group import RankError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(lay_out(tmp_path))
    return tmp_path


def _raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as raised:
        return raised


def _in_a_rank() -> BaseException:
    return RankError("rank 0 of 1:\n" + "".join(traceback.format_exception(_raised(Trouble("cannot save"), FULL))))


@pytest.mark.parametrize("error", [FULL, _in_a_rank(), _raised(Trouble("cannot save"), FULL),
                                   RuntimeError("I/O error: No space left on device (os error 28)"),
                                   OSError(errno.EMFILE, os.strerror(errno.EMFILE))],
                         ids=["here", "rank", "trouble", "safetensors", "open files"])
def test_a_full_disk_fails_no_proof(error):
    def attempt():
        raise error

    remedy = "make room, or .* with TMPDIR|allow more open files"
    with pytest.raises(UserError, match=f"cannot work in .*, and no certificate was written; ({remedy})") as said:
        examined("resume", "it holds", "shrunk", attempt)
    assert "\n" not in str(said.value)


def test_a_file_that_a_users_own_model_misses_is_still_a_failure():
    def attempt():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "weights.bin")

    assert examined("future", "it holds", "shrunk", attempt).failed


def _file(path):
    path.write_text("")


@pytest.mark.parametrize("name, make", [("runs", _file), ("runs/small", _file), ("runs/small/doctor.json", os.mkdir)],
                         ids=["dir", "folder", "certificate"])
def test_an_unusable_run_folder_is_said_before_any_proof(place, capsys, name, make):
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    make(place / name)
    before = sorted(place.rglob("*"))
    assert main(["doctor", "small.yaml", "--only", "labels"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert "write the certificate into" in shown.err and "run.dir=..." in shown.err
    assert sorted(place.rglob("*")) == before


def test_a_folder_for_temporary_files_that_is_full_ends_in_a_line(place, capsys, monkeypatch):
    def full(*arguments, **options):
        raise FULL

    monkeypatch.setattr("dstrain.doctor.case.tempfile.mkdtemp", full)
    assert main(["doctor", "small.yaml", "--only", "labels"]) == 2
    said = capsys.readouterr().err
    assert "TMPDIR" in said and said.count("\n") == 1 and not (place / "runs").exists()


def test_a_certificate_that_does_not_fit_leaves_the_one_before_and_nothing_beside_it(place, monkeypatch):
    new = certificate(load_recipe("small.yaml", []), [], device="cpu", device_name="cpu", data_sample="1")
    write_certificate(place, new)
    before = (place / FILE).read_bytes()

    def full(number):
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_certificate(place, new)
    assert (place / FILE).read_bytes() == before and not list(place.glob(".doctor*"))

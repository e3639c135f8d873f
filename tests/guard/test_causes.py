"""Why a rank ends is told by the type of what ended it, and by where it was; never by its words where a type tells."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dstrain.config.errors import FailedElsewhere, Left, LostRank, SaidElsewhere, Trouble, TroubleElsewhere, UserError
from dstrain.guard.causes import READS_ROWS, cause_of, saying_why
from dstrain.guard.pulse import Pulse

TRAIN = Path(__file__).resolve().parents[2] / "dstrain" / "train"


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


def chained(error: Exception, origin: Exception) -> Exception:
    error.__cause__ = origin
    return error


@pytest.mark.parametrize("error, phase, detail, cause", [
    (None, "step", "", "finished"),
    (Left("SIGTERM"), "leaving", "", "left"),
    (KeyboardInterrupt(), "data", "", "interrupted"),
    (LostRank("gone"), "step", "", "lost a rank"),
    (SaidElsewhere("there"), "data", "", "elsewhere"),
    (TroubleElsewhere("there: out of memory"), "saving", "", "elsewhere"),
    (FailedElsewhere("reading the rows of step 3 failed on rank 1: MemoryError"), "data", "", "elsewhere"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate"), "step", "", "out of memory"),
    (MemoryError(), "start", "", "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "step", "", "out of memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "step", "", "out of memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "data", "", "out of memory"),
    (OSError(errno.ENOSPC, "No space left on device"), "saving", "", "disk full"),
    (chained(Trouble("cannot save"), OSError(errno.EDQUOT, "quota")), "saving", "", "disk full"),
    (chained(Trouble("cannot save"), OSError(errno.EIO, "I/O error")), "saving", "", "disk trouble"),
    (chained(RuntimeError("out"), chained(Trouble("save"), OSError(errno.EROFS, "ro"))), "saving", "", "disk trouble"),
    (OSError(errno.EIO, "I/O error"), "data", "", "data error"),
    (UserError("a.jsonl, line 3: not JSON"), "data", "", "data error"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "data", "", "data error"),
    (UserError("a.jsonl, line 3: not JSON"), "start", "reading the first step's rows", "data error"),
    (UserError("optim.name is ..."), "start", "going on from a checkpoint", "mistake"),
    (UserError("the disk of words is out of memory"), "start", "", "mistake"),
    (ValueError("two shapes"), "step", "micro-batch 1", "error"),
    (Trouble("it was loaded wrongly"), "start", "", "trouble"),
    (chained(Trouble("cannot save"), OSError(errno.EEXIST, "File exists")), "saving", "", "trouble"),
])
def test_the_cause_is_told_by_type_and_place(error, phase, detail, cause):
    found, words = cause_of(error, phase, detail)
    assert found == cause and "\n" not in words


def test_an_error_names_its_type_its_message_and_the_line_that_raised_it():
    pulse = Pulse()
    with pytest.raises(ValueError), saying_why(pulse):
        raise ValueError("two\n  shapes")
    assert pulse.ending["cause"] == "error"
    assert pulse.ending["words"].startswith("ValueError: two shapes (tests/guard/test_causes.py, line ")


def test_what_was_said_first_stands_and_a_normal_end_is_said_too():
    pulse = Pulse()
    pulse.ended("NaN", "all skipped")
    with pytest.raises(UserError), saying_why(pulse):
        raise UserError("all skipped")
    assert pulse.ending["cause"] == "NaN"
    pulse = Pulse()
    with saying_why(pulse):
        pulse.step = 12
    assert pulse.ending["cause"] == "finished" and pulse.ending["step"] == 12


def test_the_parts_of_a_start_in_which_only_data_are_read_have_the_names_that_the_trainer_gives_them():
    source = "".join(path.read_text() for path in TRAIN.glob("*.py"))
    assert all(f'"{name}' in source or f'f"{name}' in source for name in READS_ROWS)

"""A doctor.json of any other form than the doctor writes is no certificate: one line for a user, and never an error."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest

from dstrain.config.certificate import FILE, why_not_proven
from dstrain.config.load import load_recipe
from dstrain.doctor.certificate import certificate, write_certificate
from dstrain.doctor.examined import Examined
from dstrain.doctor.finding import Finding
from dstrain.doctor.registry import PROOFS

ABSENT = object()
ODD = [
    (("all_proofs", "proofs"), []),
    (("proofs",), ["a"]), (("proofs",), {}), (("proofs",), None), (("proofs",), ABSENT), (("proofs", 0), None),
    (("proofs", 0, "name"), ABSENT), (("proofs", 0, "name"), ["labels"]), (("proofs", 0, "name"), "resume"),
    (("proofs", 0, "verdict"), ABSENT), (("proofs", 0, "verdict"), "banana"), (("proofs", 0, "verdict"), ["proven"]),
    (("proofs", 0, "figure"), ABSENT), (("proofs", 0, "verdict"), "not proven"),
    (("passed",), False), (("passed",), ABSENT), (("format",), None), (("figures",), ABSENT),
    (("device",), ABSENT), (("device_name",), 1), (("versions",), ABSENT), (("versions",), []),
    (("not_run",), ABSENT), (("not_run",), ["labels"]), (("not_proven",), ABSENT), (("not_proven",), [1]),
    (("subject",), None), (("subject", "recipe"), []), (("subject", "recipe"), ABSENT),
    (("subject", "recipe", "optim.lr"), {"a": [1]}), (("subject", "recipe", "optim.lr"), "\ud800"),
    (("subject", "hashes"), None), (("subject", "hashes"), ABSENT), (("subject", "hashes"), []),
]


def recipe():
    return load_recipe("quickstart", [])


def whole(verdict: bool = True) -> dict:
    found = [Examined(name, "it holds", "shrunk", Finding(verdict, "0", "none", "" if verdict else "a leak"), "", 0.1)
             for name in PROOFS]
    return certificate(recipe(), found, device="cpu", device_name="cpu", data_sample="12ab")


def changed(places: tuple, value: Any) -> dict:
    """Several names at the top, or a path down to one entry."""
    new = copy.deepcopy(whole())
    if places == ("all_proofs", "proofs"):
        return new | {"all_proofs": [], "proofs": []}
    *path, last = places
    holder = new
    for part in path:
        holder = holder[part]
    if value is ABSENT:
        holder.pop(last)
    else:
        holder[last] = value
    return new


@pytest.mark.parametrize("places, value", ODD, ids=[f"{'.'.join(map(str, places))}={str(value)[:9]!a}" for places, value
                                                    in ODD])
def test_one_odd_entry_and_nothing_is_proven(tmp_path, places, value):
    (tmp_path / FILE).write_text(json.dumps(changed(places, value)))
    why = why_not_proven(tmp_path, recipe())
    assert why and "\n" not in why and why.encode()
    write_certificate(tmp_path, whole())  # and the doctor takes its place
    assert why_not_proven(tmp_path, recipe()) is None


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"', b"\xff\xfe", b"1" * 5000, b" "],
                         ids=["brackets", "objects", "half", "utf16", "digits", "blank"])
def test_whatever_json_cannot_be_is_no_certificate(tmp_path, text):
    (tmp_path / FILE).write_bytes(text)
    assert "no certificate" in why_not_proven(tmp_path, recipe())


def test_a_certificate_cut_anywhere_is_none(tmp_path):
    text = json.dumps(whole())
    for end in range(0, len(text), 397):
        (tmp_path / FILE).write_text(text[:end])
        assert "no certificate" in why_not_proven(tmp_path, recipe())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/nowhere/at/all", path)],
                         ids=["fifo", "folder", "link"])
def test_what_is_no_file_is_not_opened(tmp_path, make):
    make(tmp_path / FILE)
    assert "no certificate" in why_not_proven(tmp_path, recipe())


def test_names_of_proofs_that_nobody_knows_prove_nothing(tmp_path):
    new = whole()
    new["proofs"].append({**new["proofs"][0], "name": "two\nlines", "verdict": "FAILED"})
    (tmp_path / FILE).write_text(json.dumps(new | {"passed": False}))
    why = why_not_proven(tmp_path, recipe())
    assert why and "\n" not in why

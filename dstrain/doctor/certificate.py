"""Writes doctor.json: what was proven, with which figures, on what; and what was not."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from dstrain.config.certificate import FILE, FORMAT, read_certificate, subject_of
from dstrain.config.schema import Recipe
from dstrain.doctor.examined import Examined
from dstrain.doctor.registry import PROOFS
from dstrain.doctor.warnings.figure import Figure
from dstrain.runtime.rank_report import versions
from dstrain.train.run_folder import beside, write_json


def certificate(recipe: Recipe, found: Sequence[Examined], *, device: str, device_name: str, data_sample: str,
                figures: Sequence[Figure] = (), not_proven: Sequence[str] = (), subject: dict | None = None) -> dict:
    """As plain JSON. `data_sample` is the hash of the rows that were looked at; figures are no proofs. `subject` is
    what was there when the proofs began, by default what is there now."""
    subject = subject or subject_of(recipe)
    subject = {**subject, "hashes": {**subject["hashes"], "data_sample": data_sample}}
    reasons = [f"{e.name}: {e.why_not}" for e in found if e.finding is None]
    return {"format": FORMAT, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "subject": subject,
            "device": device, "device_name": device_name,
            "versions": {**versions(), "platform": platform.platform()},
            "all_proofs": list(PROOFS), "proofs": [_as_json(examined, device) for examined in found],
            **_outcome([e.name for e in found], any(e.failed for e in found)),
            "figures": [figure._asdict() for figure in figures],
            "not_proven": [*reasons, *not_proven]}


def write_certificate(folder: Path, new: dict) -> dict:
    """Into the folder, whole or not at all. Proofs that are there already, of the same recipe, code, data, versions and
    device, and were not run again, stay: a failed one can be mended and run alone with --only."""
    old = read_certificate(folder)
    same = old is not None and all(old[key] == new[key] for key in ("subject", "device", "device_name", "versions"))
    if same:
        again = {proof["name"]: proof for proof in (*old["proofs"], *new["proofs"])}
        proofs = [again[name] for name in new["all_proofs"] if name in again]
        run_now = {proof["name"] for proof in new["proofs"]}
        reasons = [reason for reason in old["not_proven"]
                   if reason.partition(":")[0] in again.keys() - run_now and reason not in new["not_proven"]]
        new = {**new, "proofs": proofs,
               **_outcome([proof["name"] for proof in proofs], any(proof["verdict"] == "FAILED" for proof in proofs)),
               "figures": new["figures"] or old["figures"], "not_proven": [*new["not_proven"], *reasons]}
    try:
        write_json(folder / FILE, new)
    except BaseException:
        with contextlib.suppress(OSError):
            beside(folder / FILE).unlink(missing_ok=True)
        raise
    return new


def _outcome(run: Sequence[str], one_failed: bool) -> dict:
    """Some of the proofs alone have not passed: the others are open."""
    not_run = [name for name in PROOFS if name not in run]
    return {"passed": not one_failed and not not_run, "not_run": not_run}


def _as_json(examined: Examined, device: str) -> dict:
    told = {"name": examined.name, "claim": examined.claim, "proved_at": examined.at,
            "device": device if PROOFS[examined.name].on_device else "cpu", "verdict": examined.verdict,
            "seconds": round(examined.seconds, 2)}
    finding = examined.finding
    if finding is None:
        return told | {"why_not": examined.why_not}
    return told | {"figure": finding.figure, "tolerance": finding.tolerance,
                   **({} if finding.passed else {"cause": finding.cause, "remedy": finding.remedy})}

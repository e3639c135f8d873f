"""One visit: the proofs, then the figures, then the certificate; all of it said as it comes."""

from __future__ import annotations

import torch

from dstrain.config.certificate import FILE, subject_of
from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.doctor.beyond import beyond
from dstrain.doctor.case import Case
from dstrain.doctor.certificate import certificate, write_certificate
from dstrain.doctor.duration import expected_s, shrinks
from dstrain.doctor.examine import examine
from dstrain.doctor.examined import what_broke
from dstrain.doctor.screen import Screen
from dstrain.doctor.warnings.all_figures import all_figures
from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import look_at
from dstrain.runtime.rank_report import device_name
from dstrain.train.progress import duration
from dstrain.train.run_folder import RunFolder


def consult(recipe: Recipe, case: Case, names: list[str], folder: RunFolder, screen: Screen) -> int:
    """1 when a proof failed, else 0. The run folder is written to at the end only, one file, whole."""
    subject = subject_of(recipe, case.full)  # as it is now: what is changed while the proofs run is not proven
    screen.line(f"{recipe.run.name}: {len(names)} proofs on {_where(case)}")
    if not shrinks(case):
        screen.begin("a pass at full size")
        seconds = _estimate(case)
        screen.end()
        screen.line(f"{recipe.model.code} has no `shrink`, so they run on the model at its full size" + (
            f": roughly {duration(seconds)} for all of them" if seconds is not None else ""))
    found = examine(case, names, screen.proof, screen.begin)
    screen.begin("figures")
    figures, data_sample = _figures(recipe, case, folder)
    screen.end()
    screen.figures(figures)
    beyond_reach = (*case.not_proven, *beyond(recipe, case.device, case.worlds))
    new = certificate(recipe, found, device=case.device, device_name=device_name(torch.device(case.device)),
                      data_sample=data_sample, figures=figures, not_proven=beyond_reach,
                      subject=subject)
    folder.make()
    new = write_certificate(folder.path, new)
    screen.summary(found, new["not_proven"], len(new["not_run"]), sum(bool(figure.advice) for figure in figures))
    screen.line(f"certificate: {folder.path / FILE}")
    return int(any(examined.failed for examined in found))


def _estimate(case: Case) -> float | None:
    """None for a model that breaks: the proofs say how."""
    try:
        return expected_s(case)
    except UserError:
        raise
    except Exception:  # whatever a user's own model does
        return None


def _figures(recipe: Recipe, case: Case, folder: RunFolder) -> tuple[list[Figure], str]:
    """And the hash of the rows that were looked at. A model that breaks has no figures, but its proofs are written."""
    try:
        seen = look_at(recipe, case, folder.path)
    except UserError:
        raise
    except Exception as error:  # whatever a user's own model does; the proofs have said it already
        return [Figure("none", f"they could not be taken: {what_broke(error)}")], ""
    return all_figures(seen), seen.rows_hash


def _where(case: Case) -> str:
    kind = "CPU" if case.device == "cpu" else "CUDA"
    return f"{kind} ranks, by ones and twos" if max(case.worlds) > 1 else f"one {kind} rank"

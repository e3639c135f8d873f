"""From the steps' results on the device to one record a step: read only when it is time to log, all at once."""

from __future__ import annotations

import time
from typing import Any

import torch

from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.dist import Ranks
from dstrain.train.family import Objective
from dstrain.train.step import StepResult


class Meter:
    """Collects step results and turns them into records: {"step", "loss", "terms", "lr", ...}, hashes beside them."""

    def __init__(self, objective: Objective, ranks: Ranks, tokens: int = 0):
        self.objective, self.ranks, self.tokens = objective, ranks, tokens
        self._waiting: list[tuple[int, StepResult, float]] = []
        self._since = time.perf_counter()
        self.window_s = 0.0
        """training time of the steps of the newest flush"""
        self.seen: torch.Tensor | None = None
        """`StepResult.seen` of these steps, added up"""
        self.counts: torch.Tensor | None = None
        """targets by term of all ranks in these steps"""

    def add(self, step: int, result: StepResult, data_wait_s: float) -> None:
        self._waiting.append((step, result, data_wait_s))

    def restart_clock(self) -> None:
        """Do not count what happened since the last flush (a validation, a save) as training time."""
        self._since = time.perf_counter()

    def flush(self) -> tuple[list[dict], list[dict]]:
        """(metrics records, ledger records) of the steps since the last flush. All ranks call it together."""
        if not self._waiting:
            return [], []
        terms = len(self.objective.terms)
        nll = self.ranks.sum(torch.stack([result.nll for _, result, _ in self._waiting])).cpu()
        totals = torch.stack([result.totals for _, result, _ in self._waiting]).cpu()
        seen = [result.seen for _, result, _ in self._waiting if result.seen is not None]
        self.seen, self.counts = torch.stack(seen).sum(dim=0).cpu() if seen else None, totals[:, :terms].sum(dim=0)
        now = time.perf_counter()
        scored = int(totals[:, 0].sum())
        self.window_s = max(1e-9, now - self._since)
        tokens_per_s = scored / self.window_s

        records, ledger = [], []
        for (step, result, data_wait_s), step_nll, step_totals in zip(self._waiting, nll, totals):
            counts = step_totals[:terms]
            self.tokens += int(counts[0])
            loss = float(loss_law(step_nll, counts, self.objective.weights_at(step)))
            by_term = {term: float(s) / max(1, int(n)) for term, s, n in zip(self.objective.terms, step_nll, counts)}
            records.append({"step": step, "loss": loss, "terms": by_term, "lr": result.lrs["adamw"],
                            "grad_norm": _number(result.grad_norm), "tokens": self.tokens,
                            "tokens_per_s": round(tokens_per_s, 1), "data_wait": round(data_wait_s, 6),
                            "skipped": not result.applied, **_where_they_apply(result)})
            ledger.append({"step": step, "rows": f"{int(step_totals[terms]) % 2**64:016x}", "scored": int(counts[0])})
        self._waiting, self._since = [], now
        return records, ledger


def _where_they_apply(result: StepResult) -> dict[str, float]:
    """The lr of Muon's matrices, and fp16's loss scale."""
    shown = {"lr_muon": result.lrs.get("muon"), "loss_scale": result.loss_scale}
    return {key: value for key, value in shown.items() if value is not None}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)

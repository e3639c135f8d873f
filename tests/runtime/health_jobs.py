"""Health checks on real ranks, with what is planted on some of them: a node, a version, a clock, a slow link."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from dstrain.config.errors import UserError
from dstrain.runtime import clocks, health, links, rank_report
from dstrain.runtime.dist import Ranks


def checked(ranks: Ranks, folder: str, node_of: list[str], said: dict[int, dict] | None = None,
            clock_of: dict[int, float] | None = None, slow: dict[tuple[int, int], float] | None = None) -> tuple:
    """(health, lines said, the mistake, seconds). `slow`: bytes per second of links, by their ranks."""
    lines: list[str] = []
    report, exchange, now = rank_report.report, links.exchange, clocks.now
    planted = [
        mock.patch.object(rank_report, "host_name", lambda: node_of[ranks.rank]),
        mock.patch.object(health, "report", lambda *about: report(*about) | (said or {}).get(ranks.rank, {})),
        mock.patch.object(clocks, "now", lambda: now() + (clock_of or {}).get(ranks.rank, 0.0)),
        mock.patch.object(links, "exchange", slowed(exchange, ranks.rank, slow or {}))]
    for plant in planted:
        plant.start()
    began = time.monotonic()
    found, mistake = None, None
    try:
        found = health.check_health(ranks, Path(folder), lines.append)
    except UserError as error:
        mistake = str(error)
    finally:
        for plant in planted:
            plant.stop()
    return found, lines, mistake, time.monotonic() - began


def slowed(exchange: Callable, rank: int, slow: dict[tuple[int, int], float]) -> Callable:
    def slowly(partner, buffers, count, word, group):
        pair = tuple(sorted((rank, partner)))
        if pair in slow:
            time.sleep(count / slow[pair])
        return exchange(partner, buffers, count, word, group)
    return slowly

"""When two runs' records are the same: all that was computed is compared, what a clock gave is not."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path

from dstrain.train.run_folder import read_lines

WALL_CLOCK = ("tokens_per_s", "data_wait")
"""fields of metrics.jsonl that two runs of the same recipe need not share"""
WALL_CLOCK_TAGS = ("perf/", "data/wait", "mem/")
"""beginnings of TensorBoard's tags of the same kind"""


def same_records(one: Path, other: Path) -> bool:
    """Whether two metrics.jsonl or ledger.jsonl hold the same lines in the same order."""
    return all(x == y for _, x, y in paired_records(one, other))


def paired_records(one: Path, other: Path) -> list[tuple[str, str | None, str | None]]:
    """Line by line (where, one's, other's) without what a clock gave; None where one has no more lines."""
    return [(f"{one.name}, step {(x or y)['step']}", _without_clock(x), _without_clock(y))
            for x, y in zip_longest(read_lines(one), read_lines(other))]


def _without_clock(record: dict | None) -> str | None:
    """As text: there NaN, written as null, and -0.0 are what they are."""
    return None if record is None else json.dumps({key: value for key, value in record.items()
                                                   if key not in WALL_CLOCK})

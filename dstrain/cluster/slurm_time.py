"""Slurm's ways of writing a time, and ours of saying one."""

from __future__ import annotations

import re

_FORMS = (
    (re.compile(r"(\d+)"), (60,)),
    (re.compile(r"(\d+):(\d+)"), (60, 1)),
    (re.compile(r"(\d+):(\d+):(\d+)"), (3600, 60, 1)),
    (re.compile(r"(\d+)-(\d+)"), (86400, 3600)),
    (re.compile(r"(\d+)-(\d+):(\d+)"), (86400, 3600, 60)),
    (re.compile(r"(\d+)-(\d+):(\d+):(\d+)"), (86400, 3600, 60, 1)),
)
"""minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on, as sbatch reads them"""


def seconds_of(text: str) -> int | None:
    """None where it is no time with an end, such as UNLIMITED."""
    for form, units in _FORMS:
        if found := form.fullmatch(text.strip()):
            return sum(int(number) * unit for number, unit in zip(found.groups(), units, strict=True))
    return None


def slurm_time(seconds: int) -> str:
    """hours:minutes:seconds, with days before them where there are any."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def in_words(seconds: float) -> str:
    """Roughly, as people say it."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            amount = seconds / unit
            return f"{amount:.0f} {name}" if amount >= 10 or unit == 60 else f"{amount:.1f} {name}"
    return f"{max(0.0, seconds):.0f} s"

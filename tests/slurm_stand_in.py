"""Stands in for Slurm's programs, for tests that ask and tell a cluster things: a folder of small shell scripts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

TWO_PARTITIONS = ("n1|gpu*|up|2-00:00:00|1-infinite|gpu:a100:4(S:0-1)|32|256000|idle",
                  "n2|gpu*|up|2-00:00:00|1-infinite|gpu:a100:4(S:0-1)|32|256000|mix",
                  "n3|gpu*|up|2-00:00:00|1-infinite|gpu:a100:4(S:0-1)|32|256000|down*",
                  "n4|cpu|up|infinite|1|(null)|16|64000|idle",
                  "n1|closed|down|1:00:00|1-2|gpu:a100:4|32|256000|idle")
"""as sinfo prints them for the format that dstrain asks for"""

SINFO = 'cat "$state/sinfo"'
SQUEUE = """
for argument in "$@"; do case $argument in --jobs=*) jobs=${argument#--jobs=};; esac; done
echo "$jobs" >> "$state/squeue.asked"
found=$(awk -F'|' -v jobs="$jobs" '
    BEGIN { n = split(jobs, list, ","); for (i = 1; i <= n; i++) asked[list[i]] = 1 }
    { split($1, base, "_"); if ($1 in asked || $2 in asked || base[1] in asked) print }' "$state/squeue")
if [ -z "$found" ]; then echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; fi
echo "$found"
"""
SACCT = 'cat "$state/sacct"'
SBATCH = """
if [ -s "$state/refusal" ]; then cat "$state/refusal" >&2; exit 1; fi
for script in "$@"; do :; done
cp "$script" "$state/submitted.sbatch"
env > "$state/sbatch.env"
echo 4711
"""


class SlurmStandIn:
    """`bin` goes in front of PATH; what the programs answer is set by the attributes' files."""

    def __init__(self, folder: Path):
        self.bin, self.state = folder / "bin", folder / "state"
        self.bin.mkdir(parents=True)
        self.state.mkdir()
        for name, body in (("sinfo", SINFO), ("squeue", SQUEUE), ("sacct", SACCT), ("sbatch", SBATCH)):
            program = self.bin / name
            program.write_text(f"#!/usr/bin/env bash\nstate={self.state}\n{body}")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.nodes(*TWO_PARTITIONS)
        self.queue()
        self.accounting()

    def nodes(self, *lines: str) -> None:
        self._write("sinfo", lines)

    def queue(self, *lines: str) -> None:
        """number|raw number|state|reason|nodes|time left|time used"""
        self._write("squeue", lines)

    def accounting(self, *lines: str) -> None:
        """number|raw number|state|nodes"""
        self._write("sacct", lines)

    def refuse(self, words: str) -> None:
        self._write("refusal", (words,))

    @property
    def path(self) -> str:
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"

    @property
    def submitted(self) -> str | None:
        script = self.state / "submitted.sbatch"
        return script.read_text() if script.exists() else None

    @property
    def environment_of_sbatch(self) -> dict[str, str]:
        lines = (self.state / "sbatch.env").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def _write(self, name: str, lines: tuple[str, ...]) -> None:
        (self.state / name).write_text("".join(f"{line}\n" for line in lines))

"""What saving and verifying cost: background saves, fragments against gathering, verification as a share of loading.

    .venv/bin/python tests/bench/save.py                          everything, on two ranks of one thread each
    .venv/bin/python tests/bench/save.py --only stall --rounds 9
    .venv/bin/python tests/bench/save.py --only load --preset medium --folder /tmp/here

Presets have the GPT-2 vocabulary. Medians, with first and third quartile. Needs disk for a few checkpoints of the
preset (12 bytes a parameter), and for `load` about 40 bytes a parameter of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from rounds import Spread  # noqa: E402
from save_jobs import gathers, hashing_speed, loads, stalls  # noqa: E402

from dstrain.runtime.rank_group import RankGroup  # noqa: E402

PARTS = ("stall", "gather", "load")
MIB = 2**20


def main() -> None:
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="save-bench-", dir=arguments.folder))
    began, results = time.time(), {}
    try:
        if "stall" in arguments.only:
            results["stall"] = _run(arguments, stalls, arguments.preset, arguments.rows, arguments.length,
                                    arguments.rounds, folder / "stall")
            print("\n".join(stall_table(results["stall"][0])), flush=True)
        if "gather" in arguments.only:
            results["gather"] = {stage: _run(arguments, gathers, arguments.preset, stage, arguments.rounds,
                                             folder / "gather") for stage in (1, 2, 3)}
            print("\n".join(gather_table(results["gather"])), flush=True)
        if "load" in arguments.only:
            results["load"] = _run(arguments, loads, arguments.preset, arguments.rounds, folder / "load")
            speed = _run(arguments, hashing_speed, 512 * MIB, folder / "hashing")[0]
            print("\n".join(load_table(results["load"][0], speed)), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{time.time() - began:.0f} s; load average now {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"what": __doc__.splitlines()[0], "cores": os.cpu_count(),
                                                    "arguments": vars(arguments), **results}, indent=1) + "\n")


def stall_table(seen: list[dict]) -> list[str]:
    """`lost` is what the training has less: the stall, and what the steps beside the writer take longer."""
    lines = ["", "| save | stall | steps beside it, longer by | lost to the training | the save itself |",
             "|---|---|---|---|---|"]
    for how in ("beside", "waiting"):
        cases = [case for case in seen if case["how"] == how]
        quiet_s = statistics.median(second for case in seen for second in case["quiet_s"])
        longer = [step_s / quiet_s - 1 for case in cases for step_s in case["beside_s"]]
        lost = [case["stall_s"] + sum(step_s - quiet_s for step_s in case["beside_s"]) for case in cases]
        lines.append(f"| {how} | {_ms(case['stall_s'] for case in cases)} | "
                     f"{f'{100 * statistics.median(longer):+.0f} % ({len(longer)} steps)' if longer else '-'} | "
                     f"{_ms(lost)} | {_ms(case['save_s'] for case in cases)} |")
    return [*lines, f"a quiet step: {1000 * quiet_s:.0f} ms"]


def gather_table(by_stage: dict[int, list[list[dict]]]) -> list[str]:
    lines = ["", "| ZeRO | way | time | memory on top: first rank, others |", "|---|---|---|---|"]
    for stage, by_rank in by_stage.items():
        for how in ("own fragments", "gathered"):
            cases = [[case for case in of_rank if case["how"] == how] for of_rank in by_rank]
            peaks = [statistics.median(case["peak_bytes"] for case in of_rank) / MIB for of_rank in cases]
            lines.append(f"| {stage} | {how} | {_ms(case['took_s'] for case in cases[0])} | "
                         f"{peaks[0]:.0f} MiB, {max(peaks[1:], default=0.0):.0f} MiB |")
    return lines


def load_table(seen: list[dict], bytes_per_s: float) -> list[str]:
    lines = ["", "| page cache | verify | build | restore | compare | in all | verification's share: time, CPU time |",
             "|---|---|---|---|---|---|---|"]
    for cache in ("cold", "warm"):
        cases = [case for case in seen if case["cache"] == cache]
        share = Spread.of(100 * case["verify_s"] / case["total_s"] for case in cases)
        share_of_cpu = statistics.median(100 * case["share_of_cpu"] for case in cases)
        parts = " | ".join(_ms(case[part] for case in cases)
                           for part in ("verify_s", "build_s", "restore_s", "compare_s", "total_s"))
        lines.append(f"| {cache} | {parts} | {share.median:.1f} % ({share.low:.1f} to {share.high:.1f}), "
                     f"{share_of_cpu:.1f} % |")
    return [*lines, f"{seen[0]['bytes'] / MIB:,.0f} MiB; one thread hashes {bytes_per_s / MIB:,.0f} MiB/s"]


def _run(arguments: argparse.Namespace, job, *more) -> list:
    with RankGroup(arguments.ranks) as group:
        return group.run(job, *more, timeout_s=3600.0)


def _ms(seconds) -> str:
    spread = Spread.of(seconds)
    return f"{1000 * spread.median:,.0f} ms ({1000 * spread.low:,.0f} to {1000 * spread.high:,.0f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--folder", help="on the disk to measure (default: the system's for temporary files)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()

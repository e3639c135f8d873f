"""What DeepSpeed and dstrain cost: one optimizer step against the best bare PyTorch loop around the same model, on CPU.

    .venv/bin/python tests/bench/step.py                    everything: about 15 minutes on two quiet cores
    .venv/bin/python tests/bench/step.py --quick            3 rounds of each, with the launcher's allocator settings
    .venv/bin/python tests/bench/step.py --json step.json --rounds 15 --micro-rows 16

One rank, `tiny` (no dropout), 16 rows x 256. Every vocabulary, precision and allocator setting is a process of its own,
in which all ZeRO stages and all bare loops (bare.py) take turns, one step each. The cost is the ratio to the cheapest
bare loop (in CPU time), within each round: by the clock on the wall, and in CPU time, which others on the machine
disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEPT, FREED = "kept", "freed"
"""whether the allocator keeps large buffers, as launch/local.sh sets it for CPU ranks, or hands them back"""
AS_LAUNCHED = f'. {ROOT}/launch/common.sh && use_cpu 1 && if [ "$1" = {FREED} ]; then ' \
              'unset MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_; fi && shift && exec "$@"'


def main() -> None:
    arguments = _arguments()
    cases = list(product(arguments.vocab, arguments.precision, arguments.allocator))
    began, results = time.time(), []
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] vocabulary {case[0]:,}, {case[1]}, allocator: memory {case[2]}", flush=True)
        results.append(run_case(arguments, *case))
        print("\n".join(table(results[-1:])), flush=True)
    print("\n" + "\n".join(table(results)))
    print(f"\n{time.time() - began:.0f} s; load average now {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({
            "what": __doc__.splitlines()[0], "date": time.strftime("%Y-%m-%d %H:%M"), "host": platform.platform(),
            "cores": os.cpu_count(), "load_average": os.getloadavg(), "arguments": vars(arguments),
            "cases": results}, indent=1) + "\n")
    if not all(result["same_work"] for result in results):
        sys.exit("the losses of some contenders differ: they do not do the same work, and no ratio means anything")


def run_case(arguments: argparse.Namespace, vocab: int, precision: str, allocator: str) -> dict:
    command = [sys.executable, str(HERE / "step_case.py"), "--precision", precision, "--vocab", str(vocab),
               "--rows", str(arguments.rows), "--micro-rows", str(arguments.micro_rows),
               "--length", str(arguments.length), "--rounds", str(arguments.rounds),
               "--threads", str(arguments.threads)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment["OMP_NUM_THREADS"] = str(arguments.threads)
    done = subprocess.Popen(["bash", "-c", AS_LAUNCHED, "bash", allocator, *command], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    noise = []
    for line in done.stderr:
        noise.append(line)
        if "round" in line and len(line) < 40:
            print(f"\r    {line.strip():<30}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    output = done.stdout.read()
    if done.wait():
        sys.exit(f"{' '.join(command)} failed:\n{''.join(noise[-30:])}")
    return json.loads(output.splitlines()[-1])


def table(results: list[dict]) -> list[str]:
    """Cost of a contender: its time over the yardstick's, minus one; median (first to third quartile)."""
    lines = ["| vocabulary, precision, allocator | loop | tokens/s | cost on the wall | cost in CPU time |",
             "|---|---|---|---|---|"]
    for result in results:
        where = f"{result['vocab']:,}, {result['precision']}, memory {KEPT if result['allocator_kept'] else FREED}"
        for name, contender in result["contenders"].items():
            mark = " (yardstick)" if name == result["yardstick"] else ""
            lines.append(f"| {where} | {name}{mark} | {contender['tokens_per_s']:,.0f} | "
                         f"{_cost(contender['wall_ratio'])} | {_cost(contender['cpu_ratio'])} |")
    return lines


def _cost(ratio: dict[str, float]) -> str:
    median, low, high = (100 * (ratio[key] - 1) for key in ("median", "low", "high"))
    return f"{median:+.1f} % ({low:+.1f} to {high:+.1f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds, with the launcher's allocator settings only")
    parser.add_argument("--vocab", type=int, nargs="+", default=[8192, 50257])
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--allocator", nargs="+", choices=(KEPT, FREED), help="memory kept (as launched) or freed")
    parser.add_argument("--rounds", type=int, help="turns of each loop (default: 9)")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--micro-rows", type=int, default=8, help="rows of a micro-batch (default: 8, so two a step)")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 9)
    arguments.allocator = arguments.allocator or ([KEPT] if arguments.quick else [KEPT, FREED])
    return arguments


if __name__ == "__main__":
    main()

"""Tokens per second from files: streamed, prepared and loaded, against tiktoken alone and what the machine can copy.

    TIKTOKEN_CACHE_DIR=... .venv/bin/python tests/bench/data.py corpus.jsonl.gz train.txt.gz --starts '^ = [^=]'
    .venv/bin/python tests/bench/data.py corpus.jsonl --quick --workers 1 2 4 --json data.json

All ways take turns; each turn begins anew. `of tiktoken`: the rate over that of tiktoken on one thread, within each
round. A turn of streaming or loading makes --tokens tokens into batches of --rows x --length, start included; a turn of
preparing writes the whole file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
warnings.filterwarnings("ignore")

from feeding import UNITS, Ways  # noqa: E402
from rounds import Spread, Turn, ratio, take_turns  # noqa: E402

from dstrain.config.errors import UserError  # noqa: E402

YARDSTICK = "tiktoken, one thread, text in memory"


def main() -> None:
    arguments = _arguments()
    results = []
    for path in arguments.files:
        with tempfile.TemporaryDirectory(prefix="dstrain-bench-") as folder:
            print(f"{path}: preparing it once, and reading it into memory", flush=True)
            ways = Ways(path.resolve(), arguments.starts, arguments.tokenizer, arguments.tokens, arguments.rows,
                        arguments.length, Path(folder))
            results.append({"file": path.name, "bytes": path.stat().st_size, "documents": len(ways.texts),
                            "text_bytes": sum(len(text.encode()) for text in ways.texts),
                            "rates": rates(ways, arguments), "first_step_s": first_steps(ways, arguments)})
        print("\n".join(table(results[-1])), flush=True)
    print(f"load average now {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({
            "what": __doc__.splitlines()[0], "date": time.strftime("%Y-%m-%d %H:%M"), "host": platform.platform(),
            "cores": os.cpu_count(), "load_average": os.getloadavg(),
            "arguments": {name: str(value) for name, value in vars(arguments).items()}, "files": results},
            indent=1) + "\n")


def rates(ways: Ways, arguments: argparse.Namespace) -> dict[str, dict]:
    """By way: rate a second of wall clock, rate a second of CPU time, the rate over the yardstick's."""
    made: dict[str, int] = {}

    def counting(name, act):
        def turn() -> None:
            made[name] = act()
        return turn

    turns = take_turns({name: counting(name, act) for name, act in ways.contenders(arguments.workers).items()},
                       arguments.rounds, say=_progress)
    each = {name: [Turn(turn.wall_s / made[name], turn.cpu_s / made[name]) for turn in of_way]
            for name, of_way in turns.items()}
    return {name: {"unit": UNITS.get(name, "tokens"), "made_a_turn": made[name],
                   "per_s": Spread.of(1 / turn.wall_s for turn in of_way).as_json(),
                   "per_cpu_s": Spread.of(1 / max(turn.cpu_s, 1e-12) for turn in of_way).as_json(),
                   "of_tiktoken": None if name in UNITS else ratio(each[YARDSTICK], of_way, "wall_s").as_json()}
            for name, of_way in each.items()}


def first_steps(ways: Ways, arguments: argparse.Namespace) -> dict[str, dict]:
    turns = take_turns(ways.starts(), arguments.rounds, say=_progress)
    return {name: Spread.of(turn.wall_s for turn in of_way).as_json() for name, of_way in turns.items()}


def table(result: dict) -> list[str]:
    """Medians, with the first and third quartiles."""
    tokens = result["rates"][YARDSTICK]["made_a_turn"]
    lines = [f"\n{result['file']}: {result['bytes'] / 1e6:,.1f} MB, {result['text_bytes'] / 1e6:,.1f} MB of text in "
             f"{result['documents']:,} documents, {tokens:,} tokens", "",
             "| way | a second | a second of CPU time | of tiktoken |", "|---|---|---|---|"]
    for name, found in result["rates"].items():
        share = found["of_tiktoken"]
        lines.append(f"| {name} | {_rate(found['per_s'], found['unit'])} | "
                     f"{_rate(found['per_cpu_s'], found['unit'])} | "
                     + (f"{share['median']:.2f} ({share['low']:.2f} to {share['high']:.2f})" if share else "") + " |")
    lines += ["", "| first step | seconds |", "|---|---|"]
    return lines + [f"| {name} | {found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f}) |"
                    for name, found in result["first_step_s"].items()]


def _rate(spread: dict[str, float], unit: str) -> str:
    scale, name = (1e6, "M tokens") if unit == "tokens" else (1e9, "GB") if spread["median"] > 1e9 else (1e6, "MB")
    median, low, high = (spread[key] / scale for key in ("median", "low", "high"))
    return f"{median:,.2f} {name} ({low:,.2f} to {high:,.2f})"


def _progress(text: str) -> None:
    print(f"\r    {text:<30}", end="\r", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="text files: .txt, .jsonl (.gz, .zst), .parquet")
    parser.add_argument("--starts", help="of .txt files: a line that matches this starts a document")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="data.workers to try (default: 1 2)")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="of a turn of streaming (default: 4 million)")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, help="turns of each way (default: 5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 million tokens")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.tokens = 1_000_000 if arguments.quick else arguments.tokens
    return arguments


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(2)

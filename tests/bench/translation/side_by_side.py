"""dstrain and its peer train a translator at the same time, each on a core of its own, with the same CPU time.

    .venv/bin/python tests/bench/translation/side_by_side.py --data ../shared/data/multi30k --out runs/side_by_side \\
        --budget-s 1200 --rounds 2 --tokens 1024 --peer='--lr 3e-3 --warmup-steps 200' \\
        schedule.warmup_steps=200

Further words are changes to dstrain's recipe multi30k-en-de; --peer gives the peer's options. Both run with one thread
in fp32 (dstrain: one rank, ZeRO stage 1) and batches of as many positions, use the vocabulary that dstrain learns from
the training text, and are scored on the validation set by greedy decoding and sacrebleu. From round to round they swap
cores. dstrain counts in steps: a short run beside the peer says how many of them make up the budget. Results: a table,
OUT/result.json, and logs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEEP_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "16000000000"}
"""large buffers are kept from step to step instead of given back to the kernel: a fifth less time for the peer"""
SHORT = "schedule.warmup_steps=0", "valid.translate=false"
COLUMNS = {"side": "side", "core": "core", "cpu_s": "training CPU s", "steps": "steps", "parameters": "parameters",
           "target_tokens_per_cpu_s": "target tokens per CPU s", "valid_nll": "valid nll", "bleu": "BLEU",
           "chrf": "chrF"}


def main() -> None:
    arguments = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit(f"this machine lends {len(cores)} core: side by side, each side needs one of its own")
    arguments.out.mkdir(parents=True)  # an older result is not written over
    sides = Sides(arguments.data.resolve(), arguments.out.resolve(), arguments.overrides, shlex.split(arguments.peer),
                  arguments.tokens)

    print("dstrain learns the vocabulary, and shows its speed", flush=True)
    rate = sides.learn_vocabulary(cores[0])
    rate = sides.rate_beside_the_peer(cores, max(2, round(arguments.calibrate_s * rate)))
    rows = []
    for number in range(1, arguments.rounds + 1):
        steps = max(1, round(arguments.budget_s * rate))
        print(f"round {number} of {arguments.rounds}: dstrain makes {rate:.2f} steps per CPU second, so {steps} steps "
              f"for {arguments.budget_s:.0f} CPU s", flush=True)
        pair = cores[:2] if number % 2 else cores[1::-1]
        found = sides.round(f"round_{number}", pair, steps, ["--budget-s", str(arguments.budget_s)])
        rows += [{"round": number, **row} for row in found]
        rate = found[0]["steps"] / found[0]["cpu_s"]
        (arguments.out / "result.json").write_text(json.dumps({
            "what": __doc__.splitlines()[0], "date": time.strftime("%Y-%m-%d %H:%M"), "host": platform.platform(),
            "load_average": os.getloadavg(), "arguments": {key: str(value) for key, value in vars(arguments).items()},
            "rows": rows}, indent=1) + "\n")
    print("\n".join(table(rows)), flush=True)


class Sides:
    """Both contenders over the same data, each in a process of its own."""

    def __init__(self, data: Path, out: Path, overrides: Sequence[str], peer_options: Sequence[str],
                 tokens: int, vocabulary: str = "bpe:8192"):
        self.data, self.out, self.learned = data, out, vocabulary
        self.overrides = [f"batch.tokens={tokens}", f"batch.micro_tokens={tokens}", *overrides]
        self.peer_options = ["--tokens", str(tokens), *peer_options]
        self.vocabulary = out / "vocabulary" / "tokenizer"

    def learn_vocabulary(self, core: int) -> float:
        """A run of a few steps keeps what it has learned in its run folder; its steps per CPU second, alone."""
        self._wait({"dstrain": self._dstrain("vocabulary", core, 4, f"tokenizer={self.learned}", *SHORT)})
        return _rate(self.out / "vocabulary_clock.json")

    def rate_beside_the_peer(self, cores: Sequence[int], steps: int) -> float:
        """dstrain's steps per CPU second while the peer trains, too: they share caches and memory."""
        peer = self._peer("calibration", cores[1], ["--budget-s", "1e9"])
        try:
            settings = f"tokenizer={self.vocabulary}", *SHORT
            self._wait({"dstrain": self._dstrain("calibration", cores[0], steps, *settings)})
        finally:
            peer.terminate()
            peer.wait()
        return _rate(self.out / "calibration_clock.json")

    def round(self, name: str, cores: Sequence[int], steps: int, peer_length: Sequence[str]) -> tuple[dict, dict]:
        """(dstrain's row, the peer's row): dstrain on the first core, the peer on the second."""
        self._wait({"dstrain": self._dstrain(name, cores[0], steps, f"tokenizer={self.vocabulary}"),
                    "peer": self._peer(name, cores[1], peer_length)})
        run = self.out / name
        return ({"side": "dstrain", "core": cores[0]} | _dstrain_row(run, _json(self.out / f"{name}_clock.json")),
                {"side": "nn.Transformer", "core": cores[1]} | _json(self.out / f"{name}_peer.json"))

    def _dstrain(self, name: str, core: int, steps: int, *more: str) -> subprocess.Popen:
        sources = {split: f"{{source_path: {stem}.en.gz, target_path: {stem}.de.gz}}"
                   for split, stem in (("train", "train"), ("valid", "val"))}
        return self._start(f"{name}_dstrain", core, [
            HERE / "dstrain_side.py", "--json", self.out / f"{name}_clock.json", "multi30k-en-de",
            f"data.folder={self.data}", *(f"data.{split}=[{source}]" for split, source in sources.items()),
            f"run.dir={self.out}", f"run.name={name}", f"valid.every={steps}", f"checkpoint.every={steps}",
            "log.samples=0", *self.overrides, *more, f"run.steps={steps}"])

    def _peer(self, name: str, core: int, length: Sequence[str]) -> subprocess.Popen:
        return self._start(f"{name}_peer", core, [
            HERE / "nn_transformer_peer.py", "--data", self.data, "--tokenizer", self.vocabulary,
            "--json", self.out / f"{name}_peer.json", *self.peer_options, *length])

    def _start(self, log: str, core: int, words: Sequence[str | Path]) -> subprocess.Popen:
        environment = os.environ | KEEP_BUFFERS | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        with open(self.out / f"{log}.log", "w") as file:
            return subprocess.Popen([sys.executable, "-W", "ignore", *map(str, words)], env=environment, stdout=file,
                                    stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, {core}))

    def _wait(self, processes: dict[str, subprocess.Popen]) -> None:
        """Until all have ended; where one fails, the other is ended, too."""
        try:
            while any(process.poll() is None for process in processes.values()):
                failed = [name for name, process in processes.items() if process.poll()]
                if failed:
                    break
                time.sleep(0.5)
            failed = [name for name, process in processes.items() if process.poll()]
            if failed:
                sys.exit(f"{failed[0]} ended with {processes[failed[0]].returncode}: see its log in {self.out}")
        finally:
            for process in processes.values():
                if process.poll() is None:
                    process.terminate()
                    process.wait()


def _rate(clock: Path) -> float:
    return _json(clock)["steps"] / _json(clock)["cpu_s"]


def _dstrain_row(run: Path, clock: dict) -> dict:
    """What the run has written down: its last validation, and the targets that it has trained on."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [record for record in records if record.get("split") == "valid"][-1]
    targets = [record for record in records if "tokens" in record][-1]["tokens"]
    return clock | {"target_tokens": targets, "target_tokens_per_cpu_s": targets / clock["cpu_s"],
                    "valid_nll": math.log(scores["perplexity"]), "valid_targets": scores["targets"], "scores": scores,
                    "bleu": scores.get("bleu"), "chrf": scores.get("chrf")}


def table(rows: Sequence[dict]) -> list[str]:
    """One line a side and round, then what dstrain has over the peer by round."""
    lines = ["| round | " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    lines += [f"| {row['round']} | " + " | ".join(_cell(key, row.get(key)) for key in COLUMNS) + " |" for row in rows]
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        ratio = ours["target_tokens_per_cpu_s"] / theirs["target_tokens_per_cpu_s"]
        line = f"round {ours['round']}: dstrain reads {ratio:.2f} times the peer's target tokens per CPU second"
        if ours.get("bleu") is not None:
            line += f"; BLEU {ours['bleu'] - theirs['bleu']:+.2f}, chrF {ours['chrf'] - theirs['chrf']:+.2f}"
        lines += ["", line + f"; valid nll {ours['valid_nll'] - theirs['valid_nll']:+.3f}"]
        if ours["valid_targets"] != theirs["valid_targets"]:
            lines += ["", f"the sides score different targets ({ours['valid_targets']:,} and "
                          f"{theirs['valid_targets']:,}): their nll does not compare"]
    return lines


def _cell(key: str, value: object) -> str:
    if value is None:
        return "none"
    places = {"cpu_s": 1, "target_tokens_per_cpu_s": 0, "valid_nll": 3, "bleu": 2, "chrf": 2}.get(key)
    return f"{value:,}" if isinstance(value, int) else str(value) if places is None else f"{value:,.{places}f}"


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train.LANGUAGE.gz and val.LANGUAGE.gz")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--budget-s", type=float, required=True, help="CPU seconds of training, each side")
    parser.add_argument("--tokens", type=int, default=4096,
                        help="of a batch: rows x the longest side, for both (default: 4096)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--calibrate-s", type=float, default=45.0, help="CPU seconds of the short run before")
    parser.add_argument("--peer", default="", help="options of the peer, in one word: --peer='--lr 3e-3'")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to dstrain's recipe")
    return parser.parse_args()


if __name__ == "__main__":
    main()

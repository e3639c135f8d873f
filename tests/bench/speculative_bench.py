"""How much sooner a moe run writes text when its further heads draft: plain and speculative decoding take turns.

    python tests/bench/speculative_bench.py runs/moe-quickstart --rounds 5 --tokens 150

Each prompt is continued alone, as one reader waits for it. Compared is the time a token takes, without the prompt's own
pass, within each round; greedily both must give the same tokens, but where two tie within rounding.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rounds import Spread, take_turns

from dstrain.commands.use import load_trained
from dstrain.infer.continuing import Pace
from dstrain.infer.sampling import generate
from dstrain.infer.speculative import generate_speculatively

PROMPTS = ["def ", "import os\nimport sys\n", "class Reader:\n    def __init__(self, ", "    for name in sorted(",
           '    """Return the ', "        if not isinstance(value, ", "# This module ", "    raise ValueError("]
WAYS = {"greedy": {}, "temperature 0.8": {"temperature": 0.8},
        "temperature 1, top-p 0.9": {"temperature": 1.0, "top_p": 0.9}}


def measure(model: Any, tokenizer: Any, prompts: list[str], tokens: int, rounds: int, options: dict[str, Any],
            ) -> dict[str, Any]:
    ways = {"plain": generate, "speculative": generate_speculatively}
    paces: dict[str, list[Pace]] = {name: [] for name in ways}
    found: dict[str, list[Any]] = {}

    def act(name: str) -> None:
        pace = Pace()
        found[name] = [ways[name](model, tokenizer, [prompt], tokens, first_prompt=number, pace=pace, **options)[0]
                       for number, prompt in enumerate(prompts)]
        paces[name].append(pace)

    turns = take_turns({name: lambda name=name: act(name) for name in ways}, rounds)
    kept = {name: of[-rounds:] for name, of in paces.items()}
    each_s = {name: [pace.seconds / pace.tokens for pace in of] for name, of in kept.items()}
    cpu_s = {name: [turn.cpu_s / pace.tokens for turn, pace in zip(turns[name], kept[name])] for name in ways}
    last = kept["speculative"][-1]
    differ = [plain.ids != other.ids for plain, other in zip(found["plain"], found["speculative"])]
    untied = sum(not (plain.ties and other.ties)
                 for plain, other, off in zip(found["plain"], found["speculative"], differ) if off)
    return {"accepted_a_pass": last.tokens / last.passes,
            "ms_a_token": {name: Spread.of(1e3 * s for s in of).as_json() for name, of in each_s.items()},
            "speed_up": Spread.of(a / b for a, b in zip(each_s["plain"], each_s["speculative"])).as_json(),
            "speed_up_cpu": Spread.of(a / b for a, b in zip(cpu_s["plain"], cpu_s["speculative"])).as_json(),
            "differ": None if options else sum(differ), "differ_without_a_tie": None if options else untied,
            "prompts": len(prompts), "pace": asdict(last)}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for way, of in results.items():
        up, cpu, each = of["speed_up"], of["speed_up_cpu"], of["ms_a_token"]
        lines.append(f"{way:<26} {of['accepted_a_pass']:.2f} tokens a pass; {up['median']:.2f} times as fast "
                     f"({up['low']:.2f} to {up['high']:.2f}; by CPU time {cpu['median']:.2f}); "
                     f"{each['plain']['median']:.2f} and {each['speculative']['median']:.2f} ms a token"
                     + ("" if of["differ"] is None else f"; {of['differ']} of {of['prompts']} texts differ, "
                                                        f"{of['differ_without_a_tie']} without a tie"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoint", default="latest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="the first N of them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained = load_trained(arguments.run, arguments.checkpoint, "generate")
    print(f"{trained.where}: {trained.recipe.model.next_tokens} heads, {trained.recipe.model.further}", flush=True)
    results = {}
    for way, options in WAYS.items():
        results[way] = measure(trained.trainee.model, trained.tokenizer, PROMPTS[:arguments.prompts], arguments.tokens,
                               arguments.rounds, options)
        print(table({way: results[way]}), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""`dstrain generate`: continues prompts; one alone is printed as it comes, several one after another."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from dstrain.commands.terminal import for_reader
from dstrain.commands.use import Trained, load_trained
from dstrain.config.errors import UserError


def generate_command(run: Path, which: str, prompts: list[str] | None, max_new_tokens: int, temperature: float,
                     top_k: int, top_p: float, repetition_penalty: float, stop: list[str], seed: int | None) -> int:
    try:
        from dstrain.infer.choose import Choosing
        Choosing(temperature, top_k, top_p, repetition_penalty).check()  # before the model is loaded
        if seed is not None and temperature == 0.0:
            raise UserError(f"seed is {seed}, but at temperature 0 the best token is taken and nothing is drawn, so it "
                            f"has no effect: remove it, or set a temperature such as 0.8")
        trained = load_trained(run, which, "generate")
        options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed or 0, "top_k": top_k,
                   "top_p": top_p, "repetition_penalty": repetition_penalty, "stop": stop}
        _generate(trained, prompts or [trained.recipe.log.prompt], options)
    except KeyboardInterrupt:  # what has come so far stands there already
        print("\ndstrain: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0


def _generate(trained: Trained, prompts: list[str], options: dict[str, Any]) -> None:
    from dstrain.infer.sampling import generate

    began = time.perf_counter()
    if len(prompts) == 1:
        written = [prompts[0]]

        def show(_: int, piece: str) -> None:
            """The prompt comes with the first piece: a mistake in it is said before anything is printed."""
            written.append(piece)
            sys.stdout.write(for_reader("".join(written)))
            sys.stdout.flush()
            written.clear()

        results = generate(trained.trainee.model, trained.tokenizer, prompts, show=show, **options)
        print(for_reader("".join(written)), flush=True)
    else:
        results = generate(trained.trainee.model, trained.tokenizer, prompts, **options)
        for number, (prompt, result) in enumerate(zip(prompts, results), start=1):
            print(for_reader(f"--- prompt {number}\n{prompt}{result.text}"), flush=True)
    seconds = time.perf_counter() - began
    if any(result.stopped == "length" for result in results):
        print(f"(stopped: the model was trained on rows of {trained.recipe.batch.length} tokens)", file=sys.stderr)
    print(_speed(results, seconds), file=sys.stderr)


def _speed(results: list[Any], seconds: float) -> str:
    tokens, ties = sum(len(result.ids) for result in results), sum(result.ties for result in results)
    within = f"; {ties:,} of the choices lie within rounding of another token" if ties else ""
    return f"({tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s{within})"

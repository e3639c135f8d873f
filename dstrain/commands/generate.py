"""`dstrain generate`: continues prompts; one alone is printed as it comes, several one after another."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstrain.commands.terminal import for_reader
from dstrain.commands.use import Trained, load_trained
from dstrain.config.errors import UserError

if TYPE_CHECKING:
    from dstrain.infer.continuing import Pace

PLAIN_TOKENS = 32
"""of each prompt, decoded again without drafts to compare with"""


def generate_command(run: Path, which: str, prompts: list[str] | None, max_new_tokens: int, temperature: float,
                     top_k: int, top_p: float, repetition_penalty: float, stop: list[str], seed: int | None,
                     speculative: bool = False) -> int:
    try:
        from dstrain.infer.choose import Choosing
        Choosing(temperature, top_k, top_p, repetition_penalty).check()  # before the model is loaded
        if seed is not None and temperature == 0.0:
            raise UserError(f"seed is {seed}, but at temperature 0 the best token is taken and nothing is drawn, so it "
                            f"has no effect: remove it, or set a temperature such as 0.8")
        trained = load_trained(run, which, "generate")
        options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed or 0, "top_k": top_k,
                   "top_p": top_p, "repetition_penalty": repetition_penalty, "stop": stop}
        if speculative:
            _refuse_one_head(trained, run)
        _generate(trained, prompts or [trained.recipe.log.prompt], options, speculative)
    except KeyboardInterrupt:  # what has come so far stands there already
        print("\ndstrain: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0


def _refuse_one_head(trained: Trained, run: Path) -> None:
    from dstrain.infer.speculative import why_not

    lacks = why_not(trained.trainee.model)
    if lacks is not None:
        raise UserError(f"--speculative: {run}: {lacks}, so nothing can draft; leave it out, or train a recipe of the "
                        f"family moe with model.next_tokens 2 or more")


def _generate(trained: Trained, prompts: list[str], options: dict[str, Any], speculative: bool) -> None:
    from dstrain.infer.continuing import Pace
    from dstrain.infer.sampling import generate
    from dstrain.infer.speculative import generate_speculatively

    act, pace = generate_speculatively if speculative else generate, Pace()
    began = time.perf_counter()
    if len(prompts) == 1:
        written = [prompts[0]]

        def show(_: int, piece: str) -> None:
            """The prompt comes with the first piece: a mistake in it is said before anything is printed."""
            written.append(piece)
            sys.stdout.write(for_reader("".join(written)))
            sys.stdout.flush()
            written.clear()

        results = act(trained.trainee.model, trained.tokenizer, prompts, show=show, pace=pace, **options)
        print(for_reader("".join(written)), flush=True)
    else:
        results = act(trained.trainee.model, trained.tokenizer, prompts, pace=pace, **options)
        for number, (prompt, result) in enumerate(zip(prompts, results), start=1):
            print(for_reader(f"--- prompt {number}\n{prompt}{result.text}"), flush=True)
    seconds = time.perf_counter() - began
    if any(result.stopped == "length" for result in results):
        print(f"(stopped: the model was trained on rows of {trained.recipe.batch.length} tokens)", file=sys.stderr)
    print(_speed(results, seconds), file=sys.stderr)
    if speculative:
        print(_gain(trained, prompts, options, pace), file=sys.stderr)


def _speed(results: list[Any], seconds: float) -> str:
    tokens, ties = sum(len(result.ids) for result in results), sum(result.ties for result in results)
    within = f"; {ties:,} of the choices lie within rounding of another token" if ties else ""
    return f"({tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s{within})"


def _gain(trained: Trained, prompts: list[str], options: dict[str, Any], pace: Pace) -> str:
    """Against plain decoding of the same prompts, timed here and now for a few tokens; what the prompts themselves
    take is in neither."""
    from dstrain.infer.continuing import Pace
    from dstrain.infer.sampling import generate

    if not pace.passes:
        return "(speculative: nothing came after the first token)"
    plain = Pace()
    few = {"max_new_tokens": min(options["max_new_tokens"], PLAIN_TOKENS)}
    generate(trained.trainee.model, trained.tokenizer, prompts, pace=plain, **options | few)
    mean = f"(speculative: {pace.tokens / pace.passes:.2f} tokens accepted a pass on average"
    if not plain.tokens:
        return f"{mean})"
    own_s, plain_s = pace.seconds / pace.tokens, plain.seconds / plain.tokens
    whose = "" if len(prompts) == 1 else " of all prompts together"
    return (f"{mean}; {plain_s / own_s:.2f} times as fast as plain decoding: {1e3 * own_s:.2f} ms a token, against "
            f"{1e3 * plain_s:.2f} ms, measured on the first {plain.tokens:,} tokens{whose}, decoded again without "
            f"drafts)")

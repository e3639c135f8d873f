"""`dstrain generate` on the command line: what streams, what is said, pipes that close and Ctrl-C."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dstrain.__main__ import main
from dstrain.config.moe import MoeModel
from dstrain.config.schema import LmModel
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.models.decoder_lm import DecoderLm
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.init import fill_initial

ROOT = Path(__file__).resolve().parents[2]


def trained(length: int = 64):
    """What load_trained gives, of a small model with logits of a spread, and no run folder."""
    model = fill_initial(DecoderLm(LmModel(width=32, heads=2, layers=2, ff=64), 257, length), seed=1)
    with torch.no_grad():
        model.embed.weight.mul_(7.0)
    recipe = SimpleNamespace(log=SimpleNamespace(prompt="default "), batch=SimpleNamespace(length=length))
    return SimpleNamespace(recipe=recipe, tokenizer=load_tokenizer("bytes"), trainee=SimpleNamespace(model=model))


@pytest.fixture
def typed(monkeypatch, capsys):
    monkeypatch.setattr("dstrain.commands.generate.load_trained", lambda run, which, command: trained())

    def act(*arguments: str) -> tuple[int, str, str]:
        code = main(["generate", "runs/x", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return act


LIVELY = ["--temperature", "1.2", "--max-new-tokens", "40"]


def test_one_prompt_streams_and_says_what_several_say_at_the_end(typed):
    for options in (["--max-new-tokens", "30"], LIVELY, [*LIVELY, "--top-k", "20", "--top-p", "0.9", "--seed", "5"],
                    [*LIVELY, "--repetition-penalty", "1.3", "--stop", "e", "--stop", "A"]):
        code, alone, _ = typed("--prompt", "fox jumps", *options)
        assert code == 0 and alone.startswith("fox jumps") and alone.endswith("\n")
        code, both, _ = typed("--prompt", "fox jumps", "--prompt", "x", *options)
        assert code == 0 and both.startswith(f"--- prompt 1\n{alone}--- prompt 2\nx")


def test_text_comes_in_pieces_and_each_is_flushed(typed, monkeypatch):
    pieces: list[str] = []

    class Terminal(io.StringIO):
        def flush(self) -> None:
            pieces.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    typed("--prompt", "a", "--max-new-tokens", "20")
    assert len(pieces) > 10 and pieces[0].startswith("a") and pieces[-1] == sys.stdout.getvalue()
    assert all(later.startswith(earlier) for earlier, later in zip(pieces, pieces[1:]))


def test_control_characters_reach_a_pipe_but_no_terminal(typed, monkeypatch):
    prompt, shown = "red \x1b[31m\t\x9b1A\nü", "red \ufffd[31m\t\ufffd1A\nü"
    for more in ([], ["--prompt", "x"]):
        _, out, _ = typed("--prompt", prompt, *more, "--max-new-tokens", "3")
        assert prompt in out
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout.isatty", lambda: True, raising=False)
            _, out, _ = typed("--prompt", prompt, *more, "--max-new-tokens", "3")
        assert shown in out and "\x1b" not in out


def test_the_speed_is_said_on_stderr(typed):
    code, text, said = typed("--prompt", "a", "--max-new-tokens", "20")
    assert re.fullmatch(r"\(20 tokens in \d+\.\d s, [\d,]+ tokens/s\)\n", said) and "tokens/s" not in text
    _, _, said = typed("--prompt", "a" * 60, "--prompt", "b", "--max-new-tokens", "20")
    assert "(stopped: the model was trained on rows of 64 tokens)\n(24 tokens in " in said            # 4 and 20


def test_ties_are_said(typed, monkeypatch):
    level = trained()
    with torch.no_grad():
        level.trainee.model.embed.weight.zero_()                       # all logits are 0
    monkeypatch.setattr("dstrain.commands.generate.load_trained", lambda run, which, command: level)
    assert "; 3 of the choices lie within rounding of another token)" in typed("--max-new-tokens", "3")[2]


def trained_heads(next_tokens: int = 3):
    """As `trained`, of a model with further heads."""
    settings = MoeModel(width=32, heads=2, layers=1, ff=32, experts=2, top_k=1, expert_ff=16, next_tokens=next_tokens)
    it = trained()
    it.trainee.model = fill_initial(MoeLm(settings, 257, 64, 0.0), seed=1)
    return it


@pytest.mark.parametrize("options", [["--max-new-tokens", "20"], ["--max-new-tokens", "20", "--prompt", "a", "--stop",
                                                                  "!!", "--prompt", "b"]])
def test_speculative_prints_the_same_text_and_what_it_gained(typed, monkeypatch, options):
    monkeypatch.setattr("dstrain.commands.generate.load_trained", lambda run, which, command: trained_heads())
    _, plain, _ = typed(*options)
    code, text, said = typed(*options, "--speculative")
    assert code == 0 and text == plain
    gain = re.search(r"\n\(speculative: (\d\.\d\d) tokens accepted a pass on average; (\d+\.\d\d) times as fast as "
                     r"plain decoding: (\d+\.\d\d) ms a token, against (\d+\.\d\d) ms, measured on the first (\d+) "
                     r"tokens( of all prompts together)?, decoded again without drafts\)\n$", said)
    accepted, ratio, own_ms, plain_ms, tokens = map(float, gain.groups()[:5])
    assert bool(gain[6]) == ("--prompt" in options)
    assert tokens == 19 * max(1, options.count("--prompt"))
    assert 1 <= accepted <= 3 and ratio == pytest.approx(plain_ms / own_ms, rel=0.1)
    assert typed(*options, "--speculative", "--temperature", "0.8")[0] == 0


def test_speculative_where_the_first_token_is_the_last_has_gained_nothing(typed, monkeypatch):
    monkeypatch.setattr("dstrain.commands.generate.load_trained", lambda run, which, command: trained_heads())
    assert "(speculative: nothing came after the first token)" in typed("--max-new-tokens", "1", "--speculative")[2]


def test_a_model_that_predicts_one_token_cannot_draft(typed, monkeypatch):
    code, text, said = typed("--speculative")
    assert (code, text) == (2, "") and said.count("\n") == 1 and "runs/x: DecoderLm predicts the next token" in said
    monkeypatch.setattr("dstrain.commands.generate.load_trained", lambda run, which, command: trained_heads(1))
    code, text, said = typed("--speculative")
    assert (code, text) == (2, "") and "the model was trained with model.next_tokens 1" in said
    assert "moe with model.next_tokens 2 or more" in said


def test_without_a_prompt_the_recipes_is_continued(typed):
    assert typed("--max-new-tokens", "2")[1].startswith("default ")


def test_a_continuation_without_text_is_the_prompt_alone(typed, monkeypatch):
    ending = trained()
    favourite = torch.zeros(257)
    favourite[256] = 9.0
    ending.trainee.model.logits = lambda hidden: favourite.expand(len(hidden), -1)
    monkeypatch.setattr("dstrain.commands.generate.load_trained", lambda run, which, command: ending)
    assert typed("--prompt", "only this")[1] == "only this\n"


@pytest.mark.parametrize("options, message", [
    (["--top-k", "5"], "top_k is 5, but at temperature 0 the best token is taken"),
    (["--top-p", "0.5"], "top_p is 0.5, but at temperature 0"), (["--seed", "0"], "seed is 0, but at temperature 0"),
    ([*LIVELY, "--top-p", "2"], "top_p is 2.0, but must be above 0"), ([*LIVELY, "--top-k", "-2"], "top_k is -2"),
    (["--repetition-penalty", "0"], "repetition_penalty is 0.0"), (["--stop", ""], "stop: an empty string"),
    (["--max-new-tokens", "0"], "max_new_tokens is 0"), (["--prompt", "a" * 64], "prompt 0 has 65 tokens"),
])
def test_a_mistake_is_one_line_and_exit_code_two(typed, options, message):
    code, text, said = typed(*options)
    assert code == 2 and message in said and said.count("\n") == 1 and text == ""


def test_a_way_of_choosing_that_cannot_be_is_said_before_the_model_is_loaded(typed, monkeypatch):
    monkeypatch.setattr("dstrain.commands.generate.load_trained", None)
    for options in (["--top-k", "5"], ["--seed", "0"], [*LIVELY, "--top-p", "2"]):
        assert typed(*options)[0] == 2


CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)                # also below a shell that ignores it
sys.path.insert(0, sys.argv.pop(1))
import test_generate
from dstrain.__main__ import main
from dstrain.commands import generate
def endless(run, which, command):
    it = test_generate.trained(length=100_000)
    logits = it.trainee.model.logits
    def slowly(hidden):
        time.sleep(0.02)
        result = logits(hidden)
        result[:, 256] = -100.0                                         # it never ends by itself
        return result
    it.trainee.model.logits = slowly
    return it
generate.load_trained = endless
sys.exit(main())
"""


def started() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(Path(__file__).parent), "generate", "runs/x", "--prompt",
         "here it comes: ", "--max-new-tokens", "3000", "--temperature", "1"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"})


def test_ctrl_c_in_the_middle_leaves_what_has_come_and_says_so():
    process = started()
    first = process.stdout.read(40)
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=60)
    assert first.startswith(b"here it comes: ") and process.returncode == 130
    assert said == b"\ndstrain: stopped by Ctrl-C\n", said


def test_a_reader_that_leaves_ends_it_quietly():
    process = started()
    assert process.stdout.read(40).startswith(b"here it comes: ")
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 0 and said == b""

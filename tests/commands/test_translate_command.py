"""`dstrain translate` on the command line: a line for each line, what is said beside them, pipes, terminals, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_run import environment, sign

from dstrain.__main__ import main
from dstrain.commands.average import load_averaged
from dstrain.commands.translate import blocks
from dstrain.commands.use import load_trained
from dstrain.config.errors import UserError
from dstrain.config.translate import TranslateModel
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.infer.translate import translate
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.init import fill_initial

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("model={width: 16, heads: 2, encoder_layers: 1, decoder_layers: 1, ff: 32, dropout: 0.0}", "tokenizer=bytes",
         "batch={tokens: 400, micro_tokens: 400, window: 64, length: 60}", "schedule.warmup_steps=1", "optim.lr=0.05",
         "run.steps=4", "checkpoint={every: 1, keep: 3}", "valid={every: 4, translate: true, beam: 2}", "log.samples=1")


def trained(length: int = 40):
    """What load_trained gives, of a small model with logits of a spread, and no run folder."""
    settings = TranslateModel(width=16, heads=2, encoder_layers=1, decoder_layers=1, ff=32)
    model = fill_initial(Seq2Seq(settings, 257, 257, True, length), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    tokens = load_tokenizer("bytes")
    return SimpleNamespace(recipe=SimpleNamespace(batch=SimpleNamespace(length=length)),
                           tokenizer=SimpleNamespace(source=tokens, target=tokens, shared=True),
                           trainee=SimpleNamespace(model=model))


@pytest.fixture
def spoken(monkeypatch, capfdbinary):
    """The command line in this process: exit code, what it prints, what it says beside."""
    def act(*arguments: str, text: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        code = main(list(arguments))
        said = capfdbinary.readouterr()
        return code, said.out, said.err.decode()

    return act


@pytest.fixture
def typed(monkeypatch, spoken):
    """The same of `dstrain translate` with the small model."""
    monkeypatch.setattr("dstrain.commands.translate.load_averaged", lambda *_: (trained(), []))
    return lambda text, *options: spoken("translate", "runs/x", *options, text=text)


def expected(texts: list[str], beam: int = 5) -> bytes:
    results = translate(trained().trainee.model, trained().tokenizer, texts, beam)
    return "".join(result.text + "\n" for result in results).encode()


TEXTS = ["a dog", "", "two dogs run", "ein Hund läuft", "   ", "x"]


@pytest.mark.parametrize("text", [
    "\n".join(TEXTS) + "\n", "\n".join(TEXTS), "\r\n".join(TEXTS) + "\r\n", "\ufeff" + "\n".join(TEXTS)],
    ids=["lines", "no-end", "crlf", "byte-order-mark"])
def test_a_line_comes_out_for_each_that_goes_in_in_order_and_empty_ones_stay_empty(typed, text):
    code, out, said = typed(text.encode())
    assert code == 0 and out == expected(TEXTS) and out.count(b"\n") == len(TEXTS)
    assert out.split(b"\n")[1] == out.split(b"\n")[4] == b""
    assert said.startswith("(6 lines, ") and said.count("\n") == 1


def test_no_input_gives_no_line(typed):
    assert typed(b"")[:2] == (0, b"") and typed(b"\n")[:2] == (0, b"\n")


def test_blocks_and_batches_change_no_line(typed, monkeypatch):
    texts = [f"{n} dogs run{' and run' * (n % 3)}" for n in range(20)]
    text = "\n".join(texts).encode()
    for batch in ("1", "3", "64"):
        assert typed(text, "--batch", batch)[1] == expected(texts)
    sizes = []
    monkeypatch.setattr("dstrain.commands.translate.BATCHES_A_BLOCK", 2)
    monkeypatch.setattr("dstrain.infer.translate.translate",
                        lambda model, tokenizer, some, *rest: sizes.append(len(some)) or
                        translate(model, tokenizer, some, *rest))
    assert typed(text, "--batch", "4")[1] == expected(texts) and sizes == [8, 8, 4]


def test_options_reach_the_search(typed):
    texts = ["a dog", "two dogs run", "ein Hund"]
    assert typed("\n".join(texts).encode(), "--beam", "1")[1] == expected(texts, 1) != expected(texts, 5)


def test_over_long_lines_are_cut_and_named(typed):
    code, out, said = typed(b"\n".join([b"short", b"x" * 40, b"y" * 39, *[b"z" * 50] * 7]))
    assert code == 0 and out.count(b"\n") == 10
    assert "; 8 lines cut at 40 tokens: 2, 4, 5, 6, 7 and 3 more)" in said


def test_what_is_said_at_the_end(typed, monkeypatch):
    assert re.fullmatch(r"\(1 line, [\d,]+ tokens? in \d+\.\d s, [\d,]+ tokens/s(; 1 line without an end, broken off)?"
                        r"\)\n", typed(b"a dog")[2])
    level = trained()
    with torch.no_grad():
        level.trainee.model.embed.weight.zero_()                        # all logits are 0
    monkeypatch.setattr("dstrain.commands.translate.load_averaged", lambda *_: (level, []))
    said = typed(b"a\nb")[2]
    assert "; 2 lines with a choice within rounding of another; 2 lines without an end, broken off)" in said


def test_a_line_that_is_not_utf_8_is_named_after_those_before_it(typed):
    code, out, said = typed("a dog\nläuft\n".encode() + "läuft".encode("latin-1") + b"\nmore\n")
    assert code == 2 and out == expected(["a dog", "läuft"])
    assert said == ("dstrain: line 3 of the input is not UTF-8 (byte 0xe4 at place 2): convert it first, such as with "
                    "`iconv -f LATIN1 -t UTF-8`\n")


@pytest.mark.parametrize("options, message", [
    (["--beam", "0"], "beam is 0, but must be at least 1"), (["--batch", "0"], "--batch 0: must be at least 1"),
    (["--length-penalty", "-1"], "length_penalty is -1.0"),
    (["--beam", "1", "--length-penalty", "0.5"], "with a beam of 1 there is nothing to choose"),
])
def test_a_mistake_is_one_line_and_exit_code_two_before_the_model_is_loaded(typed, monkeypatch, options, message):
    monkeypatch.setattr("dstrain.commands.translate.load_averaged", None)
    code, out, said = typed(b"a", *options)
    assert code == 2 and message in said and said.count("\n") == 1 and out == b""


def test_lines_are_read_as_they_are_needed():
    stream = iter([b"a\n", b"b\n", b"c\n", b"d"])
    handed = blocks(stream, 2)
    assert next(handed) == ["a", "b"] and next(stream) == b"c\n" and list(handed) == [["d"]]


def test_an_input_that_cannot_be_read_is_a_mistake():
    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, _):
            raise IsADirectoryError(21, "Is a directory")

    with pytest.raises(UserError, match=r"the input cannot be read \(Is a directory\)"):
        list(blocks(io.BufferedReader(Broken()), 2))


CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)                # also below a shell that ignores it
sys.path.insert(0, sys.argv.pop(1))
delay = float(sys.argv.pop(1))
import test_translate_command
from dstrain.__main__ import main
from dstrain.commands import translate
def slow(*_):
    it = test_translate_command.trained()
    logits = it.trainee.model.logits
    it.trainee.model.logits = lambda hidden: time.sleep(delay) or logits(hidden)
    return it, []
translate.load_averaged = slow
translate.BATCHES_A_BLOCK = 1
sys.exit(main())
"""


@pytest.fixture
def started():
    """Starts the command with the small model, each token so much slower; ended after a minute at the latest."""
    timers = []

    def act(delay: float, *options: str, **streams) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, str(Path(__file__).parent), str(delay), "translate", "runs/x",
             *options], **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
            env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONUNBUFFERED": ""})   # it must flush
        timers.append(threading.Timer(60, process.kill))
        timers[-1].start()
        return process

    yield act
    for timer in timers:
        timer.cancel()


def test_ctrl_c_leaves_the_blocks_that_are_done_and_says_how_many_lines(started):
    process = started(0.05, "--batch", "2", "--beam", "1")
    process.stdin.write(b"a dog\n" * 1000)
    process.stdin.flush()
    first = process.stdout.readline() + process.stdout.readline()
    time.sleep(0.2)                                                     # it is in the middle of the next block
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=60)
    count = (first + rest).count(b"\n")
    assert first + rest == expected(["a dog"], 1) * count and process.returncode == 130
    assert said.decode() == f"\ndstrain: stopped by Ctrl-C after {count} lines\n"


def test_a_reader_that_leaves_ends_it_quietly(started):
    process = started(0.0, "--batch", "1", "--beam", "1")
    process.stdin.write(b"a dog\n" * 500)
    process.stdin.close()
    assert process.stdout.readline() == expected(["a dog"], 1)
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 0 and said == b""


def test_on_a_terminal_each_line_is_answered_at_once(started):
    ours, theirs = pty.openpty()
    process = started(0.0, "--beam", "1", stdin=theirs)
    os.close(theirs)
    for text in ("a dog", "", "two dogs"):
        os.write(ours, text.encode() + b"\n")
        assert process.stdout.readline() == expected([text], 1)
    os.write(ours, b"\x04")
    rest, said = process.communicate(timeout=60)
    os.close(ours)
    assert rest == b"" and process.returncode == 0
    assert said.startswith(b"(a line, and its translation; Ctrl-D ends)\n(3 lines, ")


def test_progress_is_drawn_on_a_terminal_and_gone_at_the_end(started):
    ours, theirs = pty.openpty()
    process = started(0.0, "--batch", "2", "--beam", "1", stderr=theirs)
    os.close(theirs)
    out, _ = process.communicate(b"a dog\n" * 5, timeout=60)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert out == expected(["a dog"], 1) * 5
    assert re.fullmatch(r"(\d lines, [\d,]+ tokens/s\r\x1b\[2K){3}\(5 lines, .*\)\r\n", said), said


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of four steps that keeps the last three."""
    folder = tmp_path_factory.mktemp("translator")
    subprocess.run([sys.executable, "-m", "dstrain", "train", "numbers-en-de", *SMALL, "run.name=run",
                    f"run.dir={folder}"], check=True, env=environment(), cwd=folder, stdout=subprocess.DEVNULL)
    return folder / "run"


def test_a_trained_run_translates_and_its_validation_was_generated(run, spoken):
    text = "twelve\n\nforty-two\n"
    code, out, said = spoken("translate", str(run), "--beam", "2", text=text.encode())
    assert code == 0 and out.count(b"\n") == 3 and len(out) > 10 and "(3 lines, " in said
    it = load_trained(run, "latest", "translate")
    assert out.decode().splitlines() == [
        result.text for result in translate(it.trainee.model, it.tokenizer, text.splitlines(), 2)]
    scores = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"valid"' in line][-1]
    assert {"bleu", "chrf", "exact", "bleu_signature", "chrf_signature"} <= scores.keys()
    code, out, _ = spoken("eval", str(run))
    said = dict(line.split(maxsplit=1) for line in out.decode().splitlines()[1:])
    assert code == 0 and float(said["chrf"]) == pytest.approx(scores["chrf"], rel=1e-4)
    assert said["bleu_signature"] == scores["bleu_signature"]


def test_the_average_is_the_mean_of_the_last_checkpoints_weights(run):
    wanted = {}
    for step in ("3", "4"):
        for name, weight in load_trained(run, step).trainee.named_parameters():
            wanted[name] = wanted.get(name, 0.0) + weight.detach().double() / 2
    averaged, steps = load_averaged(run, "latest", 2, "translate")
    assert steps == [3, 4]
    for name, weight in averaged.trainee.named_parameters():
        torch.testing.assert_close(weight.detach().double(), wanted[name], rtol=1e-7, atol=1e-12)
        assert not torch.equal(weight.double(), load_trained(run, "4").trainee.get_parameter(name).double())
    assert load_averaged(run, "3", 2, "translate")[1] == [2, 3]
    assert load_averaged(run / "checkpoints/step_00000003", "latest", 2, "translate")[1] == [2, 3]
    assert load_averaged(run, "latest", 1, "translate")[1] == []


def test_the_steps_of_an_average_are_said(run, spoken):
    code, _, said = spoken("translate", str(run), "--average", "3", text=b"one\n")
    assert code == 0 and "(weights: the mean of steps 2, 3, 4)\n(1 line, " in said


@pytest.mark.parametrize("which, count, message", [
    ("latest", 4, r"--average 4: up to step_00000004 .*checkpoints has 3 checkpoints; average fewer, or train with "
                  r"checkpoint.keep=4 or more"), ("2", 2, "up to step_00000002 .* has 1 checkpoint; average"),
    ("latest", 0, "--average 0: must be at least 1"),
])
def test_too_few_checkpoints_for_an_average_are_counted(run, which, count, message):
    with pytest.raises(UserError, match=message):
        load_averaged(run, which, count, "translate")


def test_a_damaged_checkpoint_or_one_of_another_model_is_not_averaged(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    old = copied / "checkpoints/step_00000003"
    (old / "model.safetensors").write_bytes((old / "model.safetensors").read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="step_00000003 is damaged: model.safetensors"):
        load_averaged(copied, "latest", 2, "translate")
    recipe = (old / "recipe.yaml").read_text()
    (old / "recipe.yaml").write_text(recipe.replace("rotary", "sinusoidal"))
    sign(old)
    with pytest.raises(UserError, match="step_00000003 holds another model than .*step_00000004"):
        load_averaged(copied, "latest", 2, "translate")


def test_a_checkpoint_that_its_training_removes_meanwhile_is_no_mistake(run, tmp_path, monkeypatch):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    import dstrain.commands.average as module
    inner, tries = module.refuse_damaged, []

    def refuse(where):
        if not tries and where.name == "step_00000003":
            tries.append(where)
            where.rename(where.with_name(".removing_step_00000003"))
        inner(where)

    monkeypatch.setattr(module, "refuse_damaged", refuse)
    assert load_averaged(copied, "latest", 2, "translate")[1] == [2, 4] and tries


def test_a_run_of_another_family_is_refused_by_both_commands(run, tmp_path, spoken):
    code, out, said = spoken("generate", str(run), "--prompt", "one")
    assert code == 2 and out == b""
    assert f"is a run of the family translate: use `dstrain translate {run}`" in said
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    for step in copied.glob("checkpoints/step_*"):
        (step / "recipe.yaml").write_text((ROOT / "dstrain/recipes/quickstart.yaml").read_text())
        sign(step)
    code, out, said = spoken("translate", str(copied), text=b"one\n")
    assert code == 2 and out == b"" and f"is a run of the family lm: use `dstrain generate {copied}`" in said

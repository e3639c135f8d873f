"""`dstrain translate`: lines of standard input in, as many lines out, each the translation of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from dstrain.commands.average import load_averaged
from dstrain.commands.terminal import for_reader
from dstrain.commands.use import Trained
from dstrain.config.errors import UserError

BATCHES_A_BLOCK = 16
"""lines are sorted by length in blocks of so many batches, and printed block by block"""
NAMED = 5
"""of the lines that were cut, so many are named"""
_CLEAR = "\r\x1b[2K"


def translate_command(run: Path, which: str, beam: int, length_penalty: float, batch: int, average: int) -> int:
    done = None
    try:
        from dstrain.infer.searching import Searching

        Searching(beam, length_penalty).check()  # before the model is loaded
        if batch < 1:
            raise UserError(f"--batch {batch}: must be at least 1 line")
        if sys.stdin is None:
            raise UserError("there is no standard input to translate: give it a file with < FILE")
        trained, steps = load_averaged(run, which, average, "translate")
        if steps:
            print(f"(weights: the mean of steps {', '.join(f'{step:,}' for step in steps)})", file=sys.stderr)
        typed = sys.stdin.isatty()
        if typed:
            print("(a line, and its translation; Ctrl-D ends)", file=sys.stderr)
        done = _Done(trained.recipe.batch.length, draws=not typed and sys.stderr.isatty())
        for texts in blocks(sys.stdin.buffer, 1 if typed else BATCHES_A_BLOCK * batch):
            _translate(trained, texts, beam, length_penalty, batch, done)
    except KeyboardInterrupt:  # what has come so far stands there already
        after = ""
        if done is not None:
            done.clear()
            after = f" after {_lines_of(done.lines)}"
        print(f"\ndstrain: stopped by Ctrl-C{after}", file=sys.stderr)
        return 130
    finally:
        if done is not None:
            done.clear()
    print(done.summary(), file=sys.stderr)
    return 0


def _translate(trained: Trained, texts: list[str], beam: int, length_penalty: float, batch: int, done: _Done) -> None:
    from dstrain.infer.translate import translate

    began = time.perf_counter()
    results = translate(trained.trainee.model, trained.tokenizer, texts, beam, length_penalty, batch)
    done.seconds += time.perf_counter() - began
    done.clear()
    sys.stdout.buffer.write("".join(f"{for_reader(result.text)}\n" for result in results).encode())
    sys.stdout.buffer.flush()
    done.add(results)


def blocks(stream: Iterable[bytes], size: int) -> Iterator[list[str]]:
    """Lines of UTF-8, without their ends, `size` at a time; those before one that is none are handed out first."""
    texts: list[str] = []
    for number, line in enumerate(_lines(stream), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            if texts:
                yield texts
            raise UserError(f"line {number:,} of the input is not UTF-8 (byte 0x{line[error.start]:02x} at place "
                            f"{error.start + 1}): convert it first, such as with `iconv -f LATIN1 -t UTF-8`") from None
        texts.append(text)
        if len(texts) == size:
            yield texts
            texts = []
    if texts:
        yield texts


def _lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    try:
        for line in stream:
            yield line.removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the input cannot be read ({reason}): give a text file with < FILE") from error


class _Done:
    """What has been translated so far, and how it is said."""

    def __init__(self, length: int, draws: bool):
        self.seconds, self.lines, self._tokens, self._ties, self._without_end = 0.0, 0, 0, 0, 0
        self._length, self._draws, self._drawn = length, draws, False
        self._cut: list[int] = []
        self._cut_count = 0

    def add(self, results: list) -> None:
        for number, result in enumerate(results, start=self.lines + 1):
            self._tokens += result.tokens
            self._ties += result.ties > 0
            self._without_end += result.stopped == "length"
            if result.cut:
                self._cut_count += 1
                self._cut += [number] if len(self._cut) < NAMED else []
        self.lines += len(results)
        if self._draws:
            print(f"{self.lines:,} lines, {self._speed()}", end="", file=sys.stderr, flush=True)
            self._drawn = True

    def clear(self) -> None:
        if self._drawn:
            print(_CLEAR, end="", file=sys.stderr, flush=True)
            self._drawn = False

    def summary(self) -> str:
        parts = [f"{_lines_of(self.lines)}, {self._tokens:,} tokens in {self.seconds:.1f} s, {self._speed()}"]
        if self._ties:
            parts.append(f"{_lines_of(self._ties)} with a choice within rounding of another")
        if self._without_end:
            parts.append(f"{_lines_of(self._without_end)} without an end, broken off")
        if self._cut:
            more = self._cut_count - len(self._cut)
            named = ", ".join(f"{number:,}" for number in self._cut) + (f" and {more:,} more" if more else "")
            parts.append(f"{_lines_of(self._cut_count)} cut at {self._length} tokens: {named}")
        return f"({'; '.join(parts)})"

    def _speed(self) -> str:
        return f"{self._tokens / max(self.seconds, 1e-9):,.0f} tokens/s"


def _lines_of(count: int) -> str:
    return f"{count:,} line{'s' * (count != 1)}"

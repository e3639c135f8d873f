"""`bpe:N`: a byte-level byte-pair encoding learned from the run's own training text, and used through tiktoken.

Ids: 0..255 are the bytes, then the tokens in the order in which they were learned, and end-of-text is the last. The
`tokenizers` library learns; tiktoken encodes with what was learned, several times faster. The same data and N give the
same tokenizer, whatever the number of threads.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.reading.sources import Corpus
from dstrain.data.tokenizers.encodings import END_OF_TEXT, TiktokenTokenizer
from dstrain.data.tokenizers.text_sample import Sample, text_sample
from dstrain.data.tokenizers.tokenizer import learned_size
from dstrain.data.tokenizers.tokenizer_folder import encoding_of

PATTERN = "|".join([
    r" ?'(?:[sdmt]|ll|ve|re)(?!\p{L})",  # what English contracts, also where a corpus puts a space before it
    r" ?\p{L}[\p{L}\p{M}]*",             # a word, with its accents, and the space before it
    r" ?\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+",
    r"\s{1,128}(?!\S)",                  # white space, but for the one character that belongs to what follows;
    r"\s",                               # in bounded steps: matchers give up on an endless run otherwise
])
"""Text is cut by it first, and no token crosses a cut. Every character belongs to one of its parts."""

_FEWEST_TIMES = 2  # a pair that occurs once is nothing to learn
_LONGEST_RUN = 256  # characters without a space; longer ones are learned from in pieces
_RUN = re.compile(r"\S{%d}" % _LONGEST_RUN)
_SAY_EVERY_S = 15.0


def learn_bpe(recipe: Recipe, say: Callable[[str], None] = print) -> TiktokenTokenizer:
    """Learns recipe.tokenizer (bpe:N) from recipe.data.train."""
    return learned_from(recipe.tokenizer, text_sample(recipe, say), say)


def learned_from(name: str, samples: Iterable[tuple[Corpus, Sample]], say: Callable[[str], None],
                 what: str = "data.train") -> TiktokenTokenizer:
    """Learns `name` (bpe:N) from samples of `what`, one a source."""
    size = learned_size(name)
    say(f"learning {name} from {what} ...")
    texts: list[bytes] = []
    sources: list[dict[str, Any]] = []
    for corpus, sample in samples:
        texts += sample.texts
        sources.append({"source": sample.source, "fingerprint": corpus.fingerprint} | _figures(sample))
        say(f"{name}: {corpus.name} gives " + _told(sample))
    if not texts:
        raise UserError(f"tokenizer: {name} cannot be learned: {what} holds no text"
                        + f" ({sum(source['malformed'] for source in sources):,} documents are malformed)"
                        + "; correct the sources, or choose another tokenizer, such as gpt2")
    tokens = _learned_tokens(texts, size - 1, lambda line: say(f"{name}: {line}"))
    if len(tokens) < size - 1:
        raise UserError(f"tokenizer: {name}: the text of {what} yields only {len(tokens) + 1:,} ids (each of them "
                        f"learned from something that occurs twice); choose bpe:{len(tokens) + 1} or fewer, or "
                        f"give more text")
    ranks = {token: rank for rank, token in enumerate(tokens)}
    description = {"name": name, "pattern": PATTERN, "specials": {END_OF_TEXT: size - 1}, "vocab_size": size}
    return TiktokenTokenizer(encoding_of(description, ranks), {"library": _library(), "sources": sources})


def _learned_tokens(texts: list[bytes], most: int, say: Callable[[str], None]) -> list[bytes]:
    """The bytes, and then tokens in the order of learning, `most` of them at most."""
    trainer_ended = threading.Event()
    result: list[list[bytes]] = []
    failure: list[BaseException] = []
    fed = _Fed()

    def work() -> None:
        try:
            result.append(_train(texts, most, fed))
        except BaseException as error:  # handed on below, in the thread that waits
            failure.append(error)
        finally:
            trainer_ended.set()

    # Beside the main thread, so that progress can be said and Ctrl-C ends the wait: the library knows neither.
    threading.Thread(target=work, name="learn-bpe", daemon=True).start()
    total, waited_s = sum(map(len, texts)), 0.0
    while not trainer_ended.wait(_SAY_EVERY_S):
        waited_s += _SAY_EVERY_S
        doing = f"{fed.bytes / 1e6:,.0f} of {total / 1e6:,.0f} MB cut into words" if fed.bytes < total else "merging"
        say(f"{doing}, {waited_s:.0f} s")
    if failure:
        raise failure[0]
    return result[0]


@dataclass
class _Fed:
    bytes: int = 0


def _train(texts: list[bytes], most: int, fed: _Fed) -> list[bytes]:
    learned = _learner(texts, most, fed).get_vocab()
    byte_of = {letter: value for value, letter in enumerate(letters_of_bytes())}
    tokens = [bytes(byte_of[letter] for letter in token) for token in sorted(learned, key=learned.__getitem__)]
    return [bytes([value]) for value in range(256)] + [token for token in tokens if len(token) > 1]


def _learner(texts: list[bytes], most: int, fed: _Fed) -> Any:
    """The library's own tokenizer, with what it has learned."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=most, min_frequency=_FEWEST_TIMES, show_progress=False,
                                  initial_alphabet=letters_of_bytes())
    learner.train_from_iterator(_pieces(texts, fed), trainer)
    return learner


def _pieces(texts: list[bytes], fed: _Fed) -> Iterator[str]:
    """The texts; a run of characters without a space, of which a word costs its length squared, in bounded pieces."""
    for encoded in texts:
        text = encoded.decode("utf-8")
        if max(map(len, text.split()), default=0) <= _LONGEST_RUN:
            yield text
        else:
            start = 0
            for run in _RUN.finditer(text):
                yield text[start:run.end()]
                start = run.end()
            yield text[start:]
        fed.bytes += len(encoded)


def letters_of_bytes() -> list[str]:
    """The letter that the library writes for each byte: printable ones for themselves, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(value) if value in printable else chr(next(others)) for value in range(256)]


def _figures(sample: Sample) -> dict[str, int]:
    return {"documents": len(sample.texts), "bytes": sum(map(len, sample.texts)),
            "documents_read": sample.read_documents, "bytes_read": sample.read_bytes, "malformed": sample.malformed}


def _told(sample: Sample) -> str:
    figures = _figures(sample)
    bad = f", {sample.malformed:,} malformed ones passed over" if sample.malformed else ""
    return (f"{_size(figures['bytes'])} of text in {figures['documents']:,} documents, out of "
            f"{_size(sample.read_bytes)} read{bad}")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def _library() -> str:
    import tokenizers

    return f"tokenizers {tokenizers.__version__}"

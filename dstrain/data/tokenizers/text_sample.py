"""A sample of the training text that fits into memory: spread over sources by weight, over files, and within them.

What is taken is a function of the data and the recipe's sources alone. No source is read to its end for it: files come
in an order decided by hashing, and of each as much is read as leaves room for those behind it. Of what is read, the
documents with the smallest hashes are kept, as many as the source's share of the sample holds.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.encodings import whole_characters
from dstrain.data.hashing import mix, permutation
from dstrain.data.reading.sources import Corpus, Malformed

SAMPLE_BYTES = 100_000_000
"""of all sources together; text without spaces between words counts for more, see `_cost`"""
READ_BYTES = 1_000_000_000
"""of text that is read to choose from"""
_LEAST_OF_A_FILE = 65_536
_LONGEST_DOCUMENT = 2**20  # characters; of a longer one its start is taken
_SAY_EVERY_S = 10.0
_PURPOSE = 0x73616D70  # keeps these hashes apart from those that deal documents to lanes


@dataclass
class Sample:
    """One source's part."""

    source: str
    texts: list[bytes] = field(default_factory=list)
    read_documents: int = 0
    read_bytes: int = 0
    malformed: int = 0


def text_sample(recipe: Recipe, say: Callable[[str], None], sample_bytes: int = SAMPLE_BYTES,
                read_bytes: int = READ_BYTES) -> Iterator[tuple[Corpus, Sample]]:
    sources = recipe.data.train
    corpora = (Corpus(source, number, "train") for number, source in enumerate(sources))
    return sampled(corpora, [source.weight for source in sources], say, sample_bytes, read_bytes)


def sampled(corpora: Iterable[Corpus], weights: Sequence[float], say: Callable[[str], None],
            sample_bytes: int = SAMPLE_BYTES, read_bytes: int = READ_BYTES) -> Iterator[tuple[Corpus, Sample]]:
    """A source with a smaller weight gives less; one with less text than its share gives all that it has."""
    for corpus, weight in zip(corpora, weights):
        share = weight / sum(weights)
        yield corpus, _of_source(corpus, share * sample_bytes, int(share * read_bytes), say)


def _of_source(corpus: Corpus, room: float, reach: int, say: Callable[[str], None]) -> Sample:
    sample = Sample(corpus.place)
    kept: list[tuple[int, float, bytes]] = []  # a heap with the largest hash first: (-hash, cost, text)
    said = time.monotonic()
    for number, document, text in _read(corpus, reach, sample):
        cost = _cost(text)
        heapq.heappush(kept, (-mix(_PURPOSE, corpus.number, number, document), cost, text))
        room -= cost
        while room < 0 and len(kept) > 1:
            room += heapq.heappop(kept)[1]
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"reading {corpus.place}: {sample.read_bytes / 1e6:,.0f} MB of at most {reach / 1e6:,.0f}")
    sample.texts = [text for _, _, text in sorted(kept, key=lambda item: item[:1], reverse=True)]
    return sample


def _read(corpus: Corpus, reach: int, sample: Sample) -> Iterator[tuple[int, int, bytes]]:
    """(file, document, text): of each file what is its share of the bytes that are left."""
    for behind, number in zip(range(corpus.file_count, 0, -1), permutation(corpus.file_count, _PURPOSE, corpus.number)):
        if sample.read_bytes >= reach:
            return
        until = sample.read_bytes + max((reach - sample.read_bytes) // behind, _LEAST_OF_A_FILE)
        with closing(corpus.documents(number)) as documents:
            for document, raw in documents:
                sample.read_documents += 1
                try:
                    text = corpus.text_of(raw).text[:_LONGEST_DOCUMENT]
                except Malformed:
                    sample.malformed += 1
                    continue
                encoded = whole_characters(text).encode("utf-8")
                sample.read_bytes += len(encoded)
                if encoded:
                    yield number, document, encoded
                if sample.read_bytes >= until:
                    break


def _cost(text: bytes) -> float:
    """Its bytes, where words are of usual length; up to eight times as many where spaces are far apart.

    What learning costs in time and memory is the text's different words, and text without spaces hardly repeats one.
    """
    run_bytes = len(text) / (1 + text.count(b" ") + text.count(b"\n"))
    return len(text) * min(8.0, max(1.0, run_bytes / 16))

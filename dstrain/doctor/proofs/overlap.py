"""Training and evaluation text do not overlap: hashes of 13 words in a row of the one, looked up in the other.

Of puzzles whole tasks are looked for, however they are turned and coloured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from dstrain.config.arc import PuzzleData
from dstrain.config.schema import Recipe
from dstrain.data.reading.pair_sources import open_corpus
from dstrain.data.reading.text import Malformed
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.proofs.overlapping_puzzles import of_puzzles

CLAIM = "no evaluation text stands in the training text; of puzzles none to validate on, turned or recoloured"
WORDS = 13
"""of an n-gram: long enough that language seldom repeats one, and no tokenizer decides"""
MOST_VALID, MOST_TRAIN = 5_000_000, 30_000_000
"""bytes of text that are looked at; of a source with many files, of up to 32 of them alike"""
FILES = 32
TABLES = "encodings"
"""a folder of the embedded standard library: tables that a program made and that repeat each other, 80 % of a file and
more; they are 19 % of the evaluation text there, which says nothing about a split. Left out, and said"""
COPIED_FROM = 0.5
"""share of a document's n-grams: one word that is changed in 40 leaves more than half of them"""
MOST_COPIED, MOST_GRAMS = 0.02, 0.1
WHY = ("headings and other short texts stand in both sides of clean splits: 0.9 % in WikiText-2 by lines, none in its "
       "articles, in Multi30k and in Wikipedia; n-grams are 0.0 to 0.8 % there, and in source code")
_CHUNK = 200_000
_MULTIPLIERS = np.random.default_rng(13).integers(1, 2**63, WORDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass
class Sample:
    """A split's documents as one row of hashed words."""

    words: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """of each document: its words, without what short ones are filled up with"""
    shown: list[tuple[str, str]] = field(default_factory=list)
    """of each document: where it stands, and how it begins"""

    def grams(self) -> tuple[np.ndarray, np.ndarray]:
        """(a hash for each 13 words in a row, whether they stand in one document)."""
        words = np.array(self.words, dtype=np.uint64)
        count = max(0, len(words) - WORDS + 1)
        hashes = sum((words[k:k + count] * _MULTIPLIERS[k] for k in range(WORDS)), np.zeros(count, np.uint64))
        ends = np.repeat(self.ends, np.diff([0, *self.ends]))[:count]
        return hashes, np.arange(count) + WORDS <= ends


@dataclass
class Looked:
    """How much of a split was read."""

    text_bytes: int = 0
    whole: bool = True
    left_out: int = 0
    """files that a program made"""


def prove(case: Case) -> Finding:
    recipe = case.full or case.recipe  # all of its data: in small it may read only a few of them
    if not recipe.data.valid:
        raise NotProven("data.valid is empty: there is no evaluation text")
    if isinstance(recipe.data, PuzzleData):
        return of_puzzles(recipe.data)
    of_valid, of_train = Looked(), Looked()
    valid = next(samples(recipe, "valid", MOST_VALID, of_valid, chunk=MOST_VALID), Sample())
    if not valid.words:
        raise NotProven("data.valid holds no text")
    grams, inside = valid.grams()
    found = inside & found_in(grams, inside, samples(recipe, "train", MOST_TRAIN, of_train))
    copied, whole, example = _copied_documents(valid, found)
    share = float(found.sum() / inside.sum())
    passed = copied <= MOST_COPIED and share <= MOST_GRAMS
    figure = (f"{share:.1%} of {int(inside.sum()):,} n-grams of data.valid ({_said(of_valid)}) are in data.train "
              f"({_said(of_train)}); {whole:.1%} of its words stand in documents that are there whole, "
              f"{copied:.1%} in such of which half or more is{example}{_left_out_of(of_valid, of_train)}")
    return Finding(passed, figure,
                   f"{MOST_COPIED:.0%} of the words in copied documents, {MOST_GRAMS:.0%} of the n-grams: {WHY}",
                   "" if passed else "documents of the evaluation were trained on: their loss is what was learned by "
                   "heart, not what was understood",
                   "" if passed else "take them out of data.train, or split the data anew, by document and without "
                   "doubles")


def found_in(grams: np.ndarray, inside: np.ndarray, train: Iterable[Sample]) -> np.ndarray:
    """Which of the n-grams stand in the training text."""
    wanted = np.unique(grams[inside])
    seen = np.zeros(len(wanted), dtype=bool)
    for sample in train:
        hashes, whole = sample.grams()
        hashes = hashes[whole]
        places = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
        seen[places[wanted[places] == hashes]] = True
    return seen[np.searchsorted(wanted, grams).clip(max=len(wanted) - 1)]


def samples(recipe: Recipe, split: str, most_bytes: int, looked: Looked, chunk: int = _CHUNK) -> Iterator[Sample]:
    """The split's documents, of each source as much as its share; a document with fewer than 13 words is filled up, and
    is one n-gram as a whole."""
    sample, goes_on = Sample(), False
    for where, text, ends in _texts(recipe, split, most_bytes, looked):
        words = list(map(crc32, text.encode().split()))
        if not words and not goes_on:
            continue
        if goes_on:  # a piece of the document before: n-grams reach over the border
            sample.ends.pop()
            sample.sizes[-1] += len(words)
        else:
            sample.sizes.append(len(words))
            sample.shown.append((where, " ".join(text[:200].split())[:60]))
            words += [0] * (WORDS - len(words))
        sample.words += words
        sample.ends.append(len(sample.words))
        goes_on = not ends
        if len(sample.words) > chunk:
            yield sample
            kept = sample.words[-(WORDS - 1):] if goes_on else []
            sample = Sample(kept, [len(kept)] * goes_on, [len(kept)] * goes_on, sample.shown[-1:] * goes_on)
    if sample.words:
        yield sample


def _texts(recipe: Recipe, split: str, most_bytes: int, looked: Looked) -> Iterator[tuple[str, str, bool]]:
    """(where a document stands, its text, whether it ends here); of a pair both sides are one text."""
    sources, languages = getattr(recipe.data, split), getattr(recipe.data, "languages", None)
    for number, source in enumerate(sources):
        corpus = open_corpus(source, number, split, languages)
        of_source, of_file = most_bytes // len(sources), most_bytes // len(sources) // min(corpus.file_count, FILES)
        step = -(-corpus.file_count // FILES)
        read = 0
        for file in (file for first in range(step) for file in range(first, corpus.file_count, step)):
            if read >= of_source:
                looked.whole = False
                break
            if source.embedded == "python-stdlib" and f"/{TABLES}/" in corpus.where(file, 0):
                looked.left_out += 1
                continue
            until, ends = read + of_file, True
            for document, raw in corpus.documents(file):
                if read >= until:
                    looked.whole = False
                    break
                try:
                    found = corpus.text_of(raw)
                except Malformed:
                    continue
                if found is None:
                    continue
                text = found.text if languages is None else f"{found.source}\n{found.target}"
                read += len(text.encode())
                ends = languages is not None or found.ends
                yield corpus.where(file, document), text, ends
            if not ends:  # it goes on behind what is looked at: what comes next is another document
                yield "", "", True
        looked.text_bytes += read


def _copied_documents(valid: Sample, found: np.ndarray) -> tuple[float, float, str]:
    """(share of words in documents with at least half of their n-grams found, with all of them, an example)."""
    ends = np.array(valid.ends)
    starts = np.concatenate([[0], ends[:-1]])
    sums = np.concatenate([[0], np.cumsum(found)])
    share = (sums[ends - WORDS + 1] - sums[starts]) / (ends - WORDS + 1 - starts)
    sizes = np.array(valid.sizes)
    copies = sorted(np.flatnonzero(share >= COPIED_FROM), key=lambda n: (-share[n], -sizes[n]))
    example = "".join(f"; {share[n]:.0%} of it: {place} (\"{begins}...\")"
                      for n in copies[:1] for place, begins in [valid.shown[n]])
    words = float(sizes.sum())
    return float(sizes[share >= COPIED_FROM].sum()) / words, float(sizes[share == 1.0].sum()) / words, example


def _left_out_of(*splits: Looked) -> str:
    left_out = sum(looked.left_out for looked in splits)
    return f"; {left_out} files of tables in the standard library's {TABLES} are left out" if left_out else ""


def _said(looked: Looked) -> str:
    return f"{'all' if looked.whole else 'the first'} {looked.text_bytes / 1e6:,.1f} MB"

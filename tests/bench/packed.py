"""Rows of random tokens in packed documents, made without any file: what a speed is measured on."""

from __future__ import annotations

import numpy as np

from dstrain.data.batching import micro_batches_of
from dstrain.data.collate import Batch, Part, Row


class AnyVocabulary:
    """As much of a tokenizer as a model needs to be built: a vocabulary of any size, with no text behind it."""

    def __init__(self, vocab_size: int):
        self.vocab_size, self.eot = vocab_size, vocab_size - 1


def packed_step(shape, rows: int, length: int, vocab_size: int, seed: int, documents_a_row: int = 3) -> list[Batch]:
    """The micro-batches of one step on one rank: full rows, `documents_a_row` documents of uneven lengths in each.

    Tokens are drawn as words are, some of them often (Zipf): a gather from the embedding should meet the same cache.
    """
    chance = np.random.default_rng(seed)
    made = [Row(row, _parts(chance, length, vocab_size, documents_a_row)) for row in range(rows)]
    return micro_batches_of(made, shape, length, eot=vocab_size - 1)


def _parts(chance: np.random.Generator, length: int, vocab_size: int, documents: int) -> list[Part]:
    cuts = sorted(chance.choice(np.arange(1, length), documents - 1, replace=False)) if documents > 1 else []
    parts = []
    for start, end in zip([0, *cuts], [*cuts, length]):
        targets = ((chance.zipf(1.2, end - start) - 1) % vocab_size).astype(np.int32)
        parts.append(Part(before=None, targets=targets, words=0, goes_on=False))
    return parts

"""Lines of text in, as many lines of text out: each by itself, whatever stands beside it, and never two."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from translator_help import BOTH, BYTES, Small, model_of_bytes

from dstrain.infer.translate import encoded, length_batches, one_line, translate, translate_ids

TEXTS = ["a dog", "", "two dogs run over the grass", "  \t", "x", "ein Hund läuft", "a dog", "東京", "y" * 80]


class Letters:
    """One id a letter, where bytes would be more; its end has another id, too."""

    eot, vocab_size = 30, 31

    def encode(self, text: str) -> np.ndarray:
        return np.array([ord(letter) % 30 for letter in text], dtype=np.int32)


def test_a_text_is_translated_the_same_alone_in_any_batch_and_in_any_order():
    model = model_of_bytes()
    for beam in (1, 4):
        together = translate(model, BOTH, TEXTS, beam)
        order = random.Random(2).sample(range(len(TEXTS)), len(TEXTS))
        assert [translate(model, BOTH, [text], beam)[0] for text in TEXTS] == together
        assert translate(model, BOTH, [TEXTS[n] for n in order], beam, batch=2) == [together[n] for n in order]
        assert together[0] == together[6] and len({result.text for result in together}) > 4


def test_a_text_of_white_space_stays_empty_and_is_not_looked_at():
    model = model_of_bytes()
    results = translate(model, BOTH, TEXTS, beam=2)
    assert [result.stopped == "empty" for result in results] == [not text.strip() for text in TEXTS]
    assert (results[1].text, results[1].tokens, results[1].ties) == ("", 0, 0)
    model.encode = None
    assert [result.text for result in translate(model, BOTH, ["", " ", "\u2003"], beam=2)] == [""] * 3
    assert translate(model, BOTH, [], beam=2) == []


def test_a_source_is_its_tokens_and_the_sources_end_and_an_over_long_one_is_cut_and_said():
    mixed = SimpleNamespace(source=Letters(), target=BYTES, shared=False)
    lines = encoded(mixed, ["abc", "x" * 59, "x" * 60], 60)
    assert lines[0].source == [97 % 30, 98 % 30, 99 % 30, 30]
    assert [len(line.source) for line in lines] == [4, 60, 60] and [line.cut for line in lines] == [False, False, True]
    assert lines[2].source == lines[1].source
    results = translate(model_of_bytes(), BOTH, TEXTS, beam=1)
    assert [result.cut for result in results] == [False] * 8 + [True]


def test_a_target_of_shorter_tokens_has_room_for_them():
    """東京 is two tokens of the source and six bytes: 2 * (6 + 1) + 10 tokens, not 2 * (2 + 1) + 10."""
    mixed = SimpleNamespace(source=Letters(), target=BYTES, shared=False)
    assert [line.limit for line in encoded(mixed, ["東京", "ab"], 60)] == [24, 16]
    assert [line.limit for line in encoded(BOTH, ["ab", "x" * 59], 60)] == [16, 60]


@pytest.mark.parametrize("text, expected", [
    ("a\nb", "a b"), ("a\r\nb\rc", "a b c"), ("a\u2028b\x0bc\x85d", "a b c d"), ("a b", "a b"), ("a\n", "a"), ("", ""),
    ("\n", ""), ("\na", " a"),
])
def test_a_translation_is_one_line_whatever_the_model_writes(text, expected):
    assert one_line(text) == expected
    model, ids = model_of_bytes(), [*text.encode(), 256]

    def logits(hidden):
        return torch.nn.functional.one_hot(torch.tensor(ids[model.now - 1]), 257).double().mul(50).expand(
            len(hidden), -1)

    model.logits = logits
    result, = translate(model, BOTH, ["12345"], beam=1)
    assert result.text == expected and result.tokens == len(ids) and result.stopped == "end"


def test_batches_are_of_lines_of_similar_length_and_leave_none_out():
    sources = [[1] * size for size in (5, 1, 0, 9, 2, 5, 3)]
    assert list(length_batches(sources, 3)) == [[1, 4, 6], [0, 5, 3]]
    found = translate_ids(Small(), sources, 3, beam=1, batch=3)
    assert [result is None for result in found] == [False, False, True, False, False, False, False]

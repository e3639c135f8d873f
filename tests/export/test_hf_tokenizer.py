"""An exported tokenizer gives the very same ids as the run's own, on code, prose and random text of many scripts."""

from __future__ import annotations

import argparse
import inspect
import random

import pytest
from export_help import recipe_for

from dstrain.config.load import recipe_from_dict, recipe_to_dict
from dstrain.data.tokenizers.bpe import learn_bpe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.export import hf_tokenizer as module
from dstrain.export.hf_tokenizer import hf_tokenizer

SCRIPTS = ((0x20, 0x7F), (0xA0, 0x24F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0x3040, 0x30FF),
           (0x4E00, 0x9FFF), (0x1F300, 0x1F64F), (0x09, 0x0D), (0x2000, 0x206F), (0x30, 0x39))


@pytest.fixture(params=["bytes", "gpt2", "cl100k_base", "bpe:700"])
def tokenizer(request, monkeypatch):
    if request.param.startswith("bpe"):
        recipe = recipe_to_dict(recipe_for("gelu", "rotary"))
        return learn_bpe(recipe_from_dict({**recipe, "tokenizer": request.param}), lambda line: None)
    if request.param != "bytes":
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(request.getfixturevalue("shared_data") / "tiktoken"))
    return load_tokenizer(request.param)


def test_the_same_ids_on_a_megabyte_of_code_and_random_text(tokenizer):
    made, draw = hf_tokenizer(tokenizer), random.Random(11)
    texts = [inspect.getsource(argparse)]
    for _ in range(2_000):
        first, end = draw.choice(SCRIPTS)
        texts.append("".join(chr(draw.randrange(first, end) if draw.random() < 0.9 else 0x20)
                             for _ in range(draw.randrange(400))))
    assert sum(map(len, texts)) > 450_000
    for text in texts:
        assert made.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).tolist(), repr(text)
    assert made.get_vocab_size() <= tokenizer.vocab_size and made.decode(tokenizer.encode(texts[0])) == texts[0]
    assert made.encode("a b").ids == [tokenizer.eot, *tokenizer.encode("a b")]


def test_possessive_repetitions_and_ends_of_text_mean_the_same_to_both_matchers(monkeypatch, shared_data):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    written = r"[^\r\n\p{L}]?+\p{L}++|\p{N}{1,3}+|\++|\s++$|\s"
    assert module._for_oniguruma(written) == r"[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}|\++|\s+\z|\s"
    monkeypatch.setattr(module, "_for_oniguruma", lambda pattern: pattern)
    assert hf_tokenizer(load_tokenizer("cl100k_base")) is None  # a difference is found, and no wrong file is written

"""bpe:N, learned from the run's text: ids, round trip, the same bytes every time, and what cannot be learned."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_help import recipe_of, write_jsonl

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe, Source
from dstrain.data.tokenizers.bpe import _Fed, _learner, letters_of_bytes, learn_bpe
from dstrain.data.tokenizers.text_sample import text_sample
from dstrain.data.tokenizers.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
STDLIB = Source(embedded="python-stdlib", part="valid")


def quiet(line: str) -> None:
    pass


def bpe_recipe(size: int | str, *sources) -> Recipe:
    return replace(recipe_of(*sources), tokenizer=f"bpe:{size}")


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """English-like text by rule: words of an alphabet, a power law, 300 lines."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(400)]
    folder = tmp_path_factory.mktemp("text")
    lines = [" ".join(chance.choices(words, [1 / (n + 1) for n in range(400)], k=30)) for _ in range(300)]
    write_jsonl(folder / "a.jsonl", lines[:200])
    write_jsonl(folder / "b.jsonl", lines[200:])
    return folder


@pytest.fixture(scope="module")
def learned(text_folder):
    return learn_bpe(bpe_recipe(600, text_folder / "*.jsonl"), quiet)


def test_the_first_256_ids_are_the_bytes_and_the_last_is_end_of_text(learned):
    assert (learned.name, learned.vocab_size, learned.eot) == ("bpe:600", 600, 599)
    table = [learned._bytes[number] for number in range(600)]
    assert table[:256] == [bytes([value]) for value in range(256)] and table[599] == b"<|endoftext|>"
    assert len(set(table)) == 600 and all(len(token) > 1 for token in table[256:])
    assert learned.token_bytes()[599] == 0 and learned.token_bytes()[:256].tolist() == [1] * 256


def test_a_text_that_can_be_merged_by_hand(tmp_path):
    # "ab" occurs 4 times, then "abab" twice, and "xy" once, which is nothing to learn: 256 + 2 + end-of-text
    path = write_jsonl(tmp_path / "a.jsonl", ["abab", "abab", "xy"])
    tokenizer = learn_bpe(bpe_recipe(259, path), quiet)
    assert [tokenizer.decode([number]) for number in (256, 257)] == ["ab", "abab"]
    assert tokenizer.encode("ababab").tolist() == [257, 256] and tokenizer.encode("ba").tolist() == [98, 97]
    with pytest.raises(UserError, match=r"bpe:260: the text of data.train yields only 259 ids.*choose bpe:259 or"):
        learn_bpe(bpe_recipe(260, path), quiet)


NASTY = ["", " ", "\n\n \t x", "Ends <|endoftext|> and", "<|endoftext|>", "äöü 東京 \U0001F600\uFE0F e\u0301\u0301",
         "\0\x01\x7f\x85\u2028\u00a0", "it's 'some' isn 't I'll ''s", "3.14159265 ٣٤٥", "\r\n\r\n",
         "ﬁ\u200d\u0e01\u0e33", "a" * 3000 + " " * 3000 + "^" * 3000]


def test_any_text_comes_back(learned):
    for text in NASTY:
        ids = learned.encode(text)
        assert learned.decode(ids) == text and learned.eot not in ids
        assert learned.token_bytes()[ids].sum() == len(text.encode())


def test_every_character_of_unicode_comes_back(learned):
    for start in range(0, 0x110000, 0x800):
        if not 0xD800 <= start < 0xE000:
            text = "".join(f"a{chr(code)} {chr(code)}" for code in range(start, start + 0x800))
            assert learned.decode(learned.encode(text)) == text


def test_random_unicode_comes_back(learned):
    chance = random.Random(2)
    kinds = [range(0, 128), range(0x80, 0x3000), range(0x3000, 0xD800), range(0xE000, 0x110000), range(9, 33)]
    for _ in range(300):
        text = "".join(chr(chance.choice(chance.choice(kinds))) for _ in range(60))
        assert learned.decode(learned.encode(text)) == text


@pytest.mark.parametrize("sign", [" ", "\n", "\t", "a", "^", "7"])
def test_a_million_equal_characters_come_back(learned, sign):
    ids = learned._encoding.encode(sign * 1_000_000 + "x", disallowed_special=())
    assert learned.decode(ids) == sign * 1_000_000 + "x"


def test_a_saved_folder_is_the_same_tokenizer_and_keeps_what_it_was_learned_from(learned, tmp_path):
    learned.save(tmp_path / "a")
    for again in (load_tokenizer("bpe:600", tmp_path / "a"), load_tokenizer(f"{tmp_path}/a")):
        assert (again.name, again.vocab_size, again.eot) == ("bpe:600", 600, 599)
        assert all(again.encode(text).tolist() == learned.encode(text).tolist() for text in NASTY)
        again.save(tmp_path / "b")
        for name in ("tokenizer.json", "tokenizer.tiktoken"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    source, = again.learned["sources"]
    assert (source["source"], source["documents"], source["malformed"]) == ("data.train.0", 300, 0)
    assert source["bytes"] == source["bytes_read"] > 10_000 and source["fingerprint"]["count"] == 2
    assert again.learned["library"].startswith("tokenizers ")


LEARN = """
import sys
from pathlib import Path
from dstrain.config.schema import Batch, Data, LmModel, Recipe, Run, Source
from dstrain.data.tokenizers.bpe import learn_bpe
recipe = Recipe(family="lm", model=LmModel(preset="tiny"), tokenizer="bpe:1000", run=Run(name="t", steps=1),
                data=Data(train=(Source(embedded="python-stdlib", part="valid"),)),
                batch=Batch(rows=4, micro_rows=4, length=8))
learn_bpe(recipe).save(Path(sys.argv[1]))
"""


def test_threads_and_processes_change_no_byte_of_the_saved_folder(tmp_path):
    learn_bpe(bpe_recipe(1000, STDLIB), quiet).save(tmp_path / "here")
    subprocess.run([sys.executable, "-c", LEARN, str(tmp_path / "there")], check=True, timeout=300, cwd=tmp_path,
                   env={**os.environ, "RAYON_NUM_THREADS": "4", "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)})
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("here", "there"))
    assert here == there and set(here) == {"tokenizer.json", "tokenizer.tiktoken"}


def test_it_takes_a_third_of_the_ids_that_bytes_take_and_those_that_the_library_itself_takes():
    """Learned from every 50th file of the standard library, measured on others; 4,000 ids."""
    recipe = bpe_recipe(4000, STDLIB)
    tokenizer = learn_bpe(recipe, quiet)
    library = _learner([text for _, sample in text_sample(recipe, quiet) for text in sample.texts], 3999, _Fed())
    text = "".join(Path(path).read_text(encoding="utf-8") for path in
                   (random.__file__, os.__file__, subprocess.__file__))
    ours, theirs = tokenizer.encode(text).tolist(), library.encode(text)
    size = len(text.encode())
    assert size / len(ours) > 3.0                                          # bytes a token; the byte tokenizer has 1.0
    # tiktoken joins two neighbours whenever what they spell is a token, the library only the pair that it learned
    spelled = [bytes(letters_of_bytes().index(letter) for letter in token) for token in theirs.tokens]
    different = sum(a != b for a, b in zip(words(tokenizer._bytes[number] for number in ours), words(spelled)))
    assert different <= 0.001 * len(ours) and abs(len(ours) - len(spelled)) <= 0.001 * len(ours)


def words(tokens) -> list[tuple[bytes, ...]]:
    """Tokens from one white space to the next, so that one difference does not shift the rest."""
    found, held = [], []
    for token in tokens:
        if held and token[:1].isspace():
            found.append(tuple(held))
            held = []
        held.append(token)
    return [*found, tuple(held)]


def test_the_librarys_letters_for_bytes_are_these():
    from tokenizers import pre_tokenizers

    assert set(letters_of_bytes()) == set(pre_tokenizers.ByteLevel.alphabet()) and len(letters_of_bytes()) == 256
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("a \n\u00ad\x7f", "äß東\U0001F600"):
        (written, _), = level.pre_tokenize_str(text)
        assert written == "".join(letters_of_bytes()[value] for value in text.encode())


def test_no_token_goes_beyond_a_word_or_three_digits():
    tokenizer = learn_bpe(bpe_recipe(1500, STDLIB), quiet)
    for number in range(256, 1499):
        token = tokenizer._bytes[number].decode("utf-8", "replace")
        inner = token[1:] if token[0] == " " else token
        assert inner.isspace() or not any(sign.isspace() for sign in inner), token
        assert sum(sign.isdigit() for sign in token) <= 3


@pytest.mark.parametrize("size, message", [
    (256, "256 ids are too few: the 256 bytes and end-of-text are 257"), ("", "'' is not a whole number"),
    ("8k", "'8k' is not a whole number"), ("-5", "'-5' is not a whole number"), ("8192.0", "is not a whole number"),
    (10**12, "more than 1,000,000 ids"),
])
def test_a_size_that_cannot_be_is_said(size, message, text_folder):
    with pytest.raises(UserError, match=message):
        learn_bpe(bpe_recipe(size, text_folder / "a.jsonl"), quiet)
    with pytest.raises(UserError, match=message):
        load_tokenizer(f"bpe:{size}")


def test_the_smallest_has_the_bytes_and_end_of_text_alone(text_folder):
    tokenizer = learn_bpe(bpe_recipe(257, text_folder / "a.jsonl"), quiet)
    assert tokenizer.encode("aé").tolist() == [97, 195, 169] and tokenizer.eot == 256


def test_without_text_it_says_so(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["", ""])
    with pytest.raises(UserError, match=r"bpe:300 cannot be learned: data.train holds no text \(0 documents are malf"):
        learn_bpe(bpe_recipe(300, path), quiet)
    path.write_text('{"txt": "a"}\n' * 5)
    with pytest.raises(UserError, match=r"\(5 documents are malformed\)"):
        learn_bpe(bpe_recipe(300, path), quiet)


def test_it_says_what_it_learns_from(text_folder):
    said = []
    learn_bpe(bpe_recipe(300, text_folder / "*.jsonl"), said.append)
    assert said[0].startswith("learning bpe:300") and "in 300 documents" in said[1]
    sizes = re.fullmatch(r".*data.train.0 .* gives ([\d,]+) bytes of text .* out of ([\d,]+) bytes read", said[1])
    assert sizes[1] == sizes[2] and 10_000 < int(sizes[1].replace(",", "")) < 100_000


def test_a_word_of_a_million_letters_is_learned_from_in_seconds(tmp_path):
    chance = np.random.default_rng(1)
    endless = bytes(chance.integers(97, 123, 1_000_000).astype(np.uint8)).decode()
    tokenizer = learn_bpe(bpe_recipe(400, write_jsonl(tmp_path / "a.jsonl", [endless])), quiet)
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


def test_a_failure_of_the_library_comes_out(monkeypatch, text_folder):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("dstrain.data.tokenizers.bpe._train", broken)
    with pytest.raises(MemoryError, match="no room"):
        learn_bpe(bpe_recipe(300, text_folder / "a.jsonl"), quiet)

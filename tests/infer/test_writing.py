"""A continuation's text: stop strings wherever tokens are cut, whole characters, and what is shown when."""

from __future__ import annotations

import random

import pytest

from dstrain.infer.writing import Writer, first_stop, tokens_to

TEXT = "ends. Äöü 東京 \U0001F600, then: ### and ##\n\nafter"


def written(pieces: list[bytes], stops: list[str]) -> tuple[str, list[str], bool]:
    """The text, what was shown of it and when, and whether a stop string ended it; each piece is a token."""
    shown: list[str] = []
    writer = Writer(lambda ids: b"".join(pieces[number] for number in ids).decode("utf-8", "replace"), stops,
                    shown.append)
    for number in range(len(pieces)):
        writer.add(number)
        if writer.stopped:
            break
    writer.finish()
    return writer.text, shown, writer.stopped


def cut(text: bytes, chance: random.Random) -> list[bytes]:
    """Anywhere, in the middle of characters and of stop strings too."""
    borders = sorted(chance.sample(range(1, len(text)), chance.randint(0, len(text) - 1)))
    return [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)])]


@pytest.mark.parametrize("stops, expected", [
    ([], TEXT), (["not there"], TEXT), (["###"], TEXT[:TEXT.index("###")]), (["\n\n"], TEXT[:TEXT.index("\n\n")]),
    (["京 \U0001F600"], "ends. Äöü 東"), (["after", "and", "##\n"], TEXT[:TEXT.index("and")]),
    (["Äöü", "öü", "ends. Ä!"], "ends. "), (["e"], ""),
])
def test_how_text_is_cut_into_tokens_never_matters(stops, expected):
    chance = random.Random(1)
    for _ in range(300):
        text, shown, stopped = written(cut(TEXT.encode(), chance), stops)
        assert text == expected == "".join(shown) and stopped == (expected != TEXT)
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(shown)


def test_bytes_that_are_no_character_are_shown_as_one_decode_shows_them():
    chance = random.Random(2)
    for _ in range(500):
        noise = bytes(chance.choice(b"\xff\xf0\x9f\x98\x80\xe6\x9d\xb1\xedA\xc3") for _ in range(12))
        text, shown, _ = written(cut(noise, chance), [])
        assert text == noise.decode("utf-8", "replace") == "".join(shown)


def test_what_may_become_a_stop_string_is_held_back_and_no_more():
    _, shown, _ = written([b"a", b"b", b"##", b"c", b"#", b"#", b"#"], ["###"])
    assert shown == ["a", "b", "##c"]                                   # the last ## and # are the stop string
    _, shown, _ = written([b"a#", b"#"], ["###"])
    assert shown == ["a", "##"]                                         # the end: it did not become one


def test_half_a_character_is_held_back_until_it_is_whole():
    _, shown, _ = written(["é".encode()[:1], "é".encode()[1:], "東".encode()[:2], "東".encode()[2:] + b"!"], [])
    assert shown == ["é", "東!"]


def test_the_stop_string_that_is_complete_first_counts_and_of_several_the_longest():
    assert first_stop("abcd", ["cd", "bc"]) == (1, 3)
    assert first_stop("abcd", ["c", "bc", "abc"]) == (0, 3)
    assert first_stop("abcd", ["abcd", "b"]) == (1, 2)
    assert first_stop("abcd", ["x"]) is None and first_stop("abab", ["b"]) == (1, 2)


def test_only_the_tokens_that_spell_the_text_count():
    def decode(numbers):
        return "".join("abcd"[number] for number in numbers)

    assert [tokens_to(text, [0, 1, 2, 3], decode) for text in ("", "a", "abc", "abcd")] == [0, 1, 3, 4]

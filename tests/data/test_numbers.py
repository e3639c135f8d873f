"""The embedded pairs: numbers spelled out. Checked by hand and by an inverse that shares nothing with the rule."""

import re

import pytest

from dstrain.data.reading.spelled_numbers import SpelledNumbers, chosen_numbers, english, german
from dstrain.data.reading.pair_text import TwoSides

BY_HAND = {
    0: ("zero", "null"), 1: ("one", "eins"), 7: ("seven", "sieben"), 11: ("eleven", "elf"), 16: ("sixteen", "sechzehn"),
    17: ("seventeen", "siebzehn"), 21: ("twenty-one", "einundzwanzig"), 30: ("thirty", "dreißig"),
    76: ("seventy-six", "sechsundsiebzig"), 100: ("one hundred", "einhundert"),
    101: ("one hundred one", "einhunderteins"), 116: ("one hundred sixteen", "einhundertsechzehn"),
    1_000: ("one thousand", "eintausend"), 1_001: ("one thousand one", "eintausendeins"),
    21_000: ("twenty-one thousand", "einundzwanzigtausend"),
    101_000: ("one hundred one thousand", "einhunderteintausend"),
    111_111: ("one hundred eleven thousand one hundred eleven", "einhundertelftausendeinhundertelf"),
    700_016: ("seven hundred thousand sixteen", "siebenhunderttausendsechzehn"),
    999_999: ("nine hundred ninety-nine thousand nine hundred ninety-nine",
              "neunhundertneunundneunzigtausendneunhundertneunundneunzig"),
}
SOME = [*range(0, 1200), *range(1200, 1_000_000, 997), 21_021, 121_001, 999_001]


@pytest.mark.parametrize("number", BY_HAND)
def test_numbers_by_hand(number):
    assert (english(number), german(number)) == BY_HAND[number]


EN_WORDS = {word: value for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split())} | {word: 10 * value for value, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)}
DE_WORDS = {"eins": 1, "ein": 1, "zwei": 2, "drei": 3, "vier": 4, "fünf": 5, "sechs": 6, "sieben": 7, "acht": 8,
            "neun": 9, "zehn": 10, "elf": 11, "zwölf": 12, "sechzehn": 16, "siebzehn": 17, "zwanzig": 20,
            "dreißig": 30, "vierzig": 40, "fünfzig": 50, "sechzig": 60, "siebzig": 70, "achtzig": 80, "neunzig": 90,
            "dreizehn": 13, "vierzehn": 14, "fünfzehn": 15, "achtzehn": 18, "neunzehn": 19, "null": 0}


def from_english(text: str) -> int:
    """Adds up from left to right; `hundred` and `thousand` multiply what stands before them."""
    total = held = 0
    for word in re.split("[ -]", text):
        if word == "thousand":
            total, held = total + held * 1000, 0
        elif word == "hundred":
            held *= 100
        else:
            held += EN_WORDS[word]
    return total + held


def from_german(text: str) -> int:
    before, thousand, rest = text.rpartition("tausend")
    if thousand:
        return 1000 * from_german(before) + (from_german(rest) if rest else 0)
    before, hundred, rest = text.rpartition("hundert")
    if hundred:
        return 100 * DE_WORDS[before] + (from_german(rest) if rest else 0)
    if text in DE_WORDS:
        return DE_WORDS[text]
    ones, _, tens = text.partition("und")
    return DE_WORDS[ones] + DE_WORDS[tens]


def test_the_words_say_the_number_again():
    assert all(from_english(english(number)) == number == from_german(german(number)) for number in SOME)


def test_only_a_one_at_the_end_has_its_s():
    for number in SOME:
        assert german(number).count("eins") == (number % 100 == 1)


def test_what_is_validated_on_is_not_trained_on_and_all_words_are():
    train, valid = set(chosen_numbers("train")), set(chosen_numbers("valid"))
    assert (len(train), len(valid)) == (40_000, 1_000) == (len(chosen_numbers("train")), len(chosen_numbers("valid")))
    assert not train & valid and set(chosen_numbers("all")) == train | valid
    assert set(range(100)) <= train and min(valid) >= 100 and max(train | valid) < 1_000_000
    for low, high in ((100, 1_000), (1_000, 10_000), (10_000, 100_000), (100_000, 1_000_000)):
        assert sum(low <= number < high for number in valid) >= 50
    assert {word for number in valid for word in re.split("[ -]", english(number))} <= {
        word for number in train for word in re.split("[ -]", english(number))}


def test_they_are_always_the_same_and_lengths_are_mixed():
    assert chosen_numbers("train")[:5] == FIRST_TRAINED and chosen_numbers("valid")[:5] == FIRST_VALID
    first = [len(str(number)) for number in chosen_numbers("train")[:1000]]
    assert first.count(6) > 400 and first.count(5) > 250 and first.count(4) > 70 and first.count(3) > 5


FIRST_TRAINED = (241320, 267055, 65114, 592312, 207600)
FIRST_VALID = (39_532, 17_503, 76_571, 90_394, 207_046)


def test_both_directions_are_the_same_numbers():
    there, back = SpelledNumbers("valid", ("en", "de")), SpelledNumbers("valid", ("de", "en"))
    pairs = [list(corpus.numbered(0, 990)) for corpus in (there, back)]
    assert [number for number, _ in pairs[0]] == list(range(990, 1000))
    assert [(n, TwoSides(pair.target, pair.source)) for n, pair in pairs[1]] == pairs[0]
    assert pairs[0][0][1] == TwoSides(english(chosen_numbers("valid")[990]), german(chosen_numbers("valid")[990]))
    assert there.digest() != back.digest() != SpelledNumbers("train", ("de", "en")).digest()
    assert there.target_bytes() == sum(len(german(number).encode()) for number in chosen_numbers("valid"))

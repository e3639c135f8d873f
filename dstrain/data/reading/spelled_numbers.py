"""The embedded pairs `numbers-en-de`: whole numbers below a million, spelled out by rule in English and in German.

Every number has one spelling in each language and every spelling one number, so a translation is right or wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from dstrain.data.hashing import NUMBERS, order_of
from dstrain.data.reading.pair_text import TwoSides

CHOSEN = ((0, 100, 100, 0), (100, 1_000, 840, 60), (1_000, 10_000, 5_060, 140), (10_000, 100_000, 14_000, 300),
          (100_000, 1_000_000, 20_000, 500))
"""from, below, how many of them to train on, how many to validate on: all lengths occur, and all words in training"""

_EN = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
       "seventeen eighteen nineteen").split()
_EN_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_DE = ("null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
       "siebzehn achtzehn neunzehn").split()
_DE_TENS = "_ _ zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()


def english(number: int) -> str:
    """21,101: twenty-one thousand one hundred one."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        return f"{english(thousands)} thousand" + (f" {english(rest)}" if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{_EN[hundreds]} hundred" + (f" {english(rest)}" if rest else "")
    if number >= 20:
        tens, rest = divmod(number, 10)
        return _EN_TENS[tens] + (f"-{_EN[rest]}" if rest else "")
    return _EN[number]


def german(number: int) -> str:
    """21.101: einundzwanzigtausendeinhunderteins."""
    word = _german(number)
    return word + "s" if number % 100 == 1 else word


def _german(number: int) -> str:
    """As it stands before another word: ein, where alone it would be eins."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        return f"{_german(thousands)}tausend" + (_german(rest) if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{_DE[hundreds]}hundert" + (_german(rest) if rest else "")
    if number >= 20:
        tens, rest = divmod(number, 10)
        return (f"{_DE[rest]}und" if rest else "") + _DE_TENS[tens]
    return _DE[number]


SPELLED = {"en": english, "de": german}


@lru_cache(maxsize=4)
def chosen_numbers(part: str) -> tuple[int, ...]:
    """The numbers of `train`, of `valid` or of both (`all`), small and large ones mixed. No number is in both."""
    found: list[int] = []
    for start, end, train, valid in CHOSEN:
        order = order_of(np.arange(end - start), NUMBERS, start)[:train + valid].tolist()
        order = order[:valid] if part == "valid" else order[valid:] if part == "train" else order
        found += [start + number for number in order]
    return tuple(found[place] for place in order_of(np.arange(len(found)), NUMBERS, len(found)))


class SpelledNumbers:
    """One file; a pair's number is its place in the order of `chosen_numbers`."""

    file_count = 1

    def __init__(self, part: str, languages: tuple[str, str]):
        self._part, self._spell = part, tuple(SPELLED[language] for language in languages)
        self._name = f"numbers-en-de, part {part}, {languages[0]} to {languages[1]}"

    def digest(self) -> str:
        digest = hashlib.blake2b(self._name.encode(), digest_size=8)
        for number in chosen_numbers(self._part):
            digest.update(number.to_bytes(4, "little"))
        return digest.hexdigest()

    def numbered(self, file_number: int, first: int) -> Iterator[tuple[int, TwoSides]]:
        source, target = self._spell
        for place, number in enumerate(chosen_numbers(self._part)[first:], start=first):
            yield place, TwoSides(source(number), target(number))

    def target_bytes(self) -> int:
        return sum(len(self._spell[1](number).encode()) for number in chosen_numbers(self._part))

    def where(self, file_number: int, number: int) -> str:
        return f"{self._name}, pair {number + 1}"

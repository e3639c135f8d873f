"""A run's tokenizer in the form of Hugging Face's `tokenizers`, as far as it gives the very same ids."""

from __future__ import annotations

import re
from typing import Any

from dstrain.data.tokenizers.bpe import letters_of_bytes
from dstrain.data.tokenizers.encodings import END_OF_TEXT, ByteTokenizer, TiktokenTokenizer

_POSSESSIVE = re.compile(r"(?<!\\)([+*?]|\{\d+(?:,\d*)?\})\+")
_PROBES = (
    "", " ", "a", "Hello, world! It's we'll THEY'LL I'M don't 'tis o'clock", "''s''ll's", "trailing space ",
    "  two  spaces   three\n\n\nlines\r\n\ttab ", "\n" * 50 + " \n \n", "\r", "\r\n\r\n x", " \u3000 \u3000x",
    "12345678901234567890 3.14159 1,000,000", "½ ² Ⅷ ① ٣ ৩ 𝟘 𐍈 \U0010ffff", "…—–“quoted”‘it’s’",
    "naïve café \N{LATIN SMALL LETTER E}\N{COMBINING ACUTE ACCENT} ſ ß İ ı \N{KELVIN SIGN}",
    "日本語のテキスト 中文 한국어 עברית العربية हिन्दी ไทย", "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ☃", "x" * 300, " " * 300 + "x",
    "\x00\x01\x7f\x85\xa0\u1680\u2003\u2028\u2029\u3000\ufeff", "ALLCAPSWordsMixedCase snake_case kebab-case",
    "def f(x):\n    return x ** 2  # comment\n\n\n",
    "http://example.org/a?b=c&d=%20 <tag attr='v'> {\"json\": [1, 2]}")
"""where the ways of cutting text differ, if they do"""


def hf_tokenizer(tokenizer: Any) -> Any | None:
    """Puts end-of-text before each text, as training did; None where some text would get other ids."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors

    ranks, pattern, specials = _parts(tokenizer)
    letters = letters_of_bytes()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()} | specials
    if len(vocabulary) != len(ranks) + len(specials):
        return None  # a special token spelled like an ordinary one
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(ranks, spelled), ignore_merges=True))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = by_bytes if pattern is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_for_oniguruma(pattern)), "isolated"), by_bytes])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in specials])
    made.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", pair=f"{END_OF_TEXT} $A {END_OF_TEXT}:1 $B:1",
        special_tokens=[(END_OF_TEXT, tokenizer.eot)])
    return made if _same_ids(made, tokenizer, specials) else None


def _parts(tokenizer: Any) -> tuple[dict[bytes, int], str | None, dict[str, int]]:
    """Tokens and their ids, the pattern that cuts text first, special tokens."""
    if isinstance(tokenizer, ByteTokenizer):
        return {bytes([value]): value for value in range(256)}, None, {END_OF_TEXT: tokenizer.eot}
    assert isinstance(tokenizer, TiktokenTokenizer)
    return tokenizer.ranks, tokenizer.pattern, tokenizer.specials


def _merges(ranks: dict[bytes, int], spelled: dict[bytes, str]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the order of what it makes: merging takes the smallest id first."""
    merges = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(first, second) for first, second in halves if first in ranks and second in ranks]
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(spelled[first], spelled[second]) for first, second in pairs]
    return merges


def _for_oniguruma(pattern: str) -> str:
    """The same pattern for the library's matcher.

    There `{1,3}+` would repeat the repetition, and `$` is the end of a line. A possessive repetition takes what a
    greedy one takes where nothing follows it that the repetition could have taken: in these patterns nothing does.
    """
    return _POSSESSIVE.sub(r"\1", pattern).replace("$", r"\z")


def _same_ids(made: Any, tokenizer: Any, specials: dict[str, int]) -> bool:
    """Over texts that are hard to cut, and over every token of the vocabulary, in two orders."""
    every = [tokenizer.decode([number]) for number in range(tokenizer.vocab_size) if number not in specials.values()]
    texts = [*_PROBES]
    for order in (every, sorted(every)):
        texts += [joint.join(order[first:first + 500]) for first in range(0, len(order), 500) for joint in ("", " ")]
    return all(made.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).tolist()
               for text in texts if not any(special in text for special in specials))

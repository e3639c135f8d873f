"""The rows as they come: padding, documents cut at a row's end, and what the tokenizer makes of words."""

from __future__ import annotations

from dstrain.config.arc import PuzzleData
from dstrain.config.schema import Recipe
from dstrain.doctor.warnings.figure import Figure
from dstrain.doctor.warnings.look import Look

CUT = ("what stands before a cut is not seen after it: raise batch.length if your documents hang together over that "
       "distance")
SHOWN_LESS = "most puzzles are shown with fewer demonstrations than data.demonstrations asks for: raise batch.length"
MUCH_PADDING, MANY_CUT, MANY_TOKENS = 0.2, 0.5, 3.0


def figures(look: Look) -> list[Figure]:
    return [_rows(look), *([_words(look)] if look.bytes_a_target else [])]  # a grid is no text


def _rows(look: Look) -> Figure:
    """In the family's own words: of pairs, other things are cut than of documents."""
    totals, advice = look.totals, []
    if 1 - totals["filled"] / max(1, totals["positions"]) > MUCH_PADDING:
        advice.append("padding is computed like everything else: take shorter rows, or of pairs and puzzles a larger "
                      "batch.window")
    if totals["cut"] > MANY_CUT * max(1, totals["documents"]):
        advice.append(SHOWN_LESS if isinstance(look.recipe.data, PuzzleData) else CUT)
    said = ", ".join(look.family.data_in_words(look.recipe, totals))
    return Figure("rows", f"of the first {look.steps} steps: {said}", "; ".join(advice))


def _words(look: Look) -> Figure:
    words = max(1, look.words)
    tokens_a_word, bytes_a_word = look.totals["scored"] / words, look.totals["scored"] * look.bytes_a_target / words
    return Figure("tokenizer", f"{look.bytes_a_target:.2f} bytes a token, {bytes_a_word:.1f} bytes and "
                  f"{tokens_a_word:.2f} tokens a word",
                  f"more than {MANY_TOKENS:g} tokens a word, and each costs a position: {_fewer(look.recipe)}"
                  if tokens_a_word > MANY_TOKENS else "")


def _fewer(recipe: Recipe) -> str:
    if str(recipe.tokenizer).startswith("bpe:"):
        return f"a larger vocabulary than {recipe.tokenizer} needs fewer, where the text is enough for it"
    return "a tokenizer learned from this text (bpe:8192), or of its language, needs fewer"

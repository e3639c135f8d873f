"""In a batch as one by one: the same tokens for prompts of other lengths beside, whatever the way of choosing."""

from __future__ import annotations

import pytest
import torch
from infer_help import BYTES, lively

from dstrain.infer.sampling import generate

PROMPTS = ["a", "the quick brown", "", "fox jumps over", "ab", "12345", "zz top zz top zz", "x y"]
WAYS = {
    "greedy": {}, "penalty": {"repetition_penalty": 1.3}, "sampled": {"temperature": 1.0},
    "top-k": {"temperature": 0.9, "top_k": 20}, "top-p": {"temperature": 0.9, "top_p": 0.8},
    "all": {"temperature": 1.2, "top_k": 100, "top_p": 0.9, "repetition_penalty": 1.2, "stop": ["e", "ab", "\n", "("]},
}


def in_batches(model, size: int, options: dict) -> list:
    return [result for first in range(0, len(PROMPTS), size) for result in
            generate(model, BYTES, PROMPTS[first:first + size], 24, seed=3, first_prompt=first, **options)]


@pytest.mark.parametrize("way", WAYS)
def test_batches_of_one_three_and_eight_give_the_same_in_float64(way):
    model = lively(torch.float64)
    alone, threes, eight = (in_batches(model, size, WAYS[way]) for size in (1, 3, 8))
    for one, three, all_at_once in zip(alone, threes, eight, strict=True):
        for other in (three, all_at_once):
            assert (one.ids, one.text, one.stopped, other.ties) == (other.ids, other.text, other.stopped, 0)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-10)
    if "stop" in WAYS[way]:
        assert {result.stopped for result in alone} >= {"stop"}


@pytest.mark.parametrize("way", WAYS)
def test_in_float32_they_part_only_where_a_tie_was_counted(way):
    model = lively(torch.float32)
    alone, threes, eight = (in_batches(model, size, WAYS[way]) for size in (1, 3, 8))
    for one, three, all_at_once in zip(alone, threes, eight, strict=True):
        for other in (three, all_at_once):
            assert one.ids == other.ids or one.ties and other.ties
    chosen, ties = sum(len(result.ids) for result in alone), sum(result.ties for result in alone)
    assert ties <= 0.1 * chosen                                         # few, or the sentence above says nothing

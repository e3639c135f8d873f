"""The bench of speculative generation compares the same tokens, and says when they are not."""

from __future__ import annotations

import speculative_bench
import torch

from dstrain.config.moe import MoeModel
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.init import fill_initial


def test_both_ways_give_the_same_tokens_and_one_that_would_not_is_said(monkeypatch):
    settings = MoeModel(width=32, heads=2, layers=1, ff=32, experts=2, top_k=1, expert_ff=16, next_tokens=3)
    model = fill_initial(MoeLm(settings, 257, 64, 0.0), seed=1)
    with torch.no_grad():
        model.embed.weight.mul_(9.0)
    results = {way: speculative_bench.measure(model, load_tokenizer("bytes"), ["def ", "x"], 12, 2, options)
               for way, options in speculative_bench.WAYS.items()}
    greedy = results["greedy"]
    assert (greedy["differ"], greedy["differ_without_a_tie"]) == (0, 0) and greedy["pace"]["tokens"] == 22
    assert 1 <= greedy["accepted_a_pass"] <= 3 and greedy["speed_up"]["median"] > 0
    assert speculative_bench.table(results).count("times as fast") == 3

    def of_another_prompt(model, tokenizer, prompts, tokens, **options):
        return speculative_bench.generate(model, tokenizer, [prompts[0] + "y"], tokens, **options)

    monkeypatch.setattr(speculative_bench, "generate_speculatively", of_another_prompt)
    assert speculative_bench.measure(model, load_tokenizer("bytes"), ["a", "x"], 12, 1, {})["differ_without_a_tie"] > 0

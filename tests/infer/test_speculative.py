"""Speculative generation against plain generation: the same tokens, or the same distribution, and fewer passes."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from infer_help import BYTES, PROMPTS, Bytes, model_of
from speculative_help import TEXT, moe_model, trained_model

from dstrain.config.errors import UserError
from dstrain.infer.continuing import Generated, Pace
from dstrain.infer.sampling import generate
from dstrain.infer.speculative import generate_speculatively

KINDS = ["parallel", "sequential"]


def prompts(count: int) -> list[str]:
    """Pieces of the text, and noise."""
    chance = random.Random(1)
    cuts = [chance.sample(range(len(TEXT)), 1)[0] for _ in range(count)]
    return [TEXT[cut:cut + chance.randint(0, 12)] if number % 3 else "".join(chance.choices("abc dz.,", k=number % 9))
            for number, cut in enumerate(cuts)]


def assert_same(one: list[Generated], other: list[Generated], tolerance: float = 1e-11) -> None:
    for plain, speculative in zip(one, other, strict=True):
        assert (plain.ids, plain.stopped, plain.ties, plain.text) == (
            speculative.ids, speculative.stopped, speculative.ties, speculative.text)
        assert plain.logprobs == pytest.approx(speculative.logprobs, abs=tolerance)


@pytest.mark.parametrize("further", KINDS)
def test_greedy_tokens_are_those_of_plain_decoding_on_every_prompt(further):
    for model in (trained_model(further), moe_model(further), moe_model(further, scale=2.0, next_tokens=2)):
        for first in range(0, 40, 10):
            some = prompts(40)[first:first + 10]
            assert_same(generate(model, BYTES, some, 30), generate_speculatively(model, BYTES, some, 30))


@pytest.mark.parametrize("further", KINDS)
def test_drafts_of_a_trained_model_stand_and_some_do_not(further):
    pace = Pace()
    generate_speculatively(trained_model(further), BYTES, prompts(12), 30, pace=pace)
    assert 1.5 < pace.tokens / pace.passes < 3.9


@pytest.mark.parametrize("further", KINDS)
def test_in_float32_each_difference_is_a_tie_that_was_counted(further):
    model = moe_model(further, scale=3.0, dtype=torch.float32)
    some = prompts(40)
    for plain, speculative in zip(generate(model, BYTES, some, 30), generate_speculatively(model, BYTES, some, 30)):
        assert plain.ids == speculative.ids or (plain.ties and speculative.ties)


@pytest.mark.parametrize("further", KINDS)
@pytest.mark.parametrize("options", [
    {"repetition_penalty": 1.5}, {"repetition_penalty": 0.7, "stop": ["e"]}, {"stop": [" f", "th", "zz"]},
    {"stop": ["e", "o", "ab"]}], ids=str)
def test_penalty_and_stop_strings_do_what_they_do_in_plain_decoding(further, options):
    for model in (trained_model(further), moe_model(further)):
        some, shown = prompts(10), [""] * 10

        def show(place: int, piece: str) -> None:
            shown[place] += piece

        found = generate_speculatively(model, BYTES, some, 25, show=show, **options)
        assert_same(generate(model, BYTES, some, 25, **options), found)
        assert shown == [result.text for result in found]


@pytest.mark.parametrize("further", KINDS)
def test_each_row_ends_where_it_ends_in_plain_decoding(further):
    """By end-of-text, which is a frequent token here, by the model's length, by the number of tokens."""
    for most in (1, 2, 3, 7, 100):
        for length in (10, 30):
            model = moe_model(further, length=length)
            with torch.no_grad():
                model.embed.weight[256].mul_(1.6)
            found = generate_speculatively(model, Bytes(), ["abc", "", "abcdefghi", "ab", "zyx"], most)
            assert_same(generate(model, Bytes(), ["abc", "", "abcdefghi", "ab", "zyx"], most), found)
    assert {result.stopped for result in found} == {"eot", "length"}


@pytest.mark.parametrize("further", KINDS)
def test_each_row_goes_at_its_own_pace(further):
    model, some = trained_model(further), prompts(8)
    together = generate_speculatively(model, BYTES, some, 30)
    for number, prompt in enumerate(some):
        assert_same([together[number]], generate_speculatively(model, BYTES, [prompt], 30))


def test_a_pass_gives_as_many_tokens_as_there_are_heads_where_all_drafts_stand():
    model = moe_model("parallel")
    with torch.no_grad():
        model.embed.weight.zero_()                                      # all logits are 0: so is every token
    trunk, calls, pace = model.trunk, [], Pace()
    model.trunk = lambda ids_BT, *others: calls.append(ids_BT.shape[1]) or trunk(ids_BT, *others)
    result, = generate_speculatively(model, Bytes(), ["ab"], 21, pace=pace)
    assert result == Generated(ids=[0] * 21, logprobs=[pytest.approx(-math.log(257))] * 21, stopped="max_new_tokens",
                               ties=21, text="0," * 21)
    assert calls == [3, 4, 4, 4, 4, 4] and (pace.passes, pace.tokens) == (5, 20) and pace.seconds > 0


class Five:
    """A tokenizer of five tokens, the last the end."""

    eot, vocab_size = 4, 5

    def encode(self, text: str) -> np.ndarray:
        return np.array([int(digit) for digit in text], dtype=np.int32)

    def decode(self, ids) -> str:
        return "".join(map(str, ids))


def exact(model, prompt: list[int], tokens: int, odds) -> dict[tuple[int, ...], float]:
    """The probability of each continuation, from whole forward passes."""
    found, running = {}, {(): 1.0}
    for step in range(tokens):
        grown = {}
        ids_BT = torch.tensor([[4, *prompt, *ids] for ids in running])
        hidden_BTC = model.eval()(ids_BT=ids_BT, segments_BT=torch.zeros_like(ids_BT), keys_B=None,
                                  positions_BT=torch.arange(ids_BT.shape[1]).expand_as(ids_BT)).heads[0]
        for (ids, before), p_V in zip(running.items(), odds(model.logits(hidden_BTC[:, -1])).tolist()):
            for token, p in enumerate(p_V):
                if p:
                    (found if token == 4 or step == tokens - 1 else grown)[(*ids, token)] = before * p
        running = grown
    return found


def plain_odds(temperature: float):
    return lambda logits_BV: torch.softmax(logits_BV / temperature, -1)


def top_three(logits_BV):
    return torch.softmax(logits_BV.masked_fill(logits_BV < logits_BV.topk(3).values[:, -1:], -torch.inf), -1)


@pytest.mark.parametrize("further", KINDS)
@pytest.mark.parametrize("options, odds", [({"temperature": 1.0}, plain_odds(1.0)),
                                           ({"temperature": 0.5}, plain_odds(0.5)),
                                           ({"temperature": 1.0, "top_k": 3}, top_three)], ids=["1", "0.5", "top 3"])
def test_sampled_continuations_are_as_frequent_as_the_model_says(further, options, odds):
    """All of up to four tokens, of five: 625 and those that end earlier. The heads' own odds are quite others."""
    model, rows, pace = moe_model(further, next_tokens=3, length=12, vocab_size=5, scale=5.0), 6000, Pace()
    results = generate_speculatively(model, Five(), ["13"] * rows, 4, seed=3, pace=pace, **options)
    counts: dict[tuple[int, ...], int] = {}
    for result in results:
        ids = (*result.ids, 4) if result.stopped == "eot" else tuple(result.ids)
        counts[ids] = counts.get(ids, 0) + 1
    p_of = exact(model, [1, 3], 4, odds)
    assert sum(p_of.values()) == pytest.approx(1.0) and set(counts) <= set(p_of)
    for ids, p in p_of.items():
        assert abs(counts.get(ids, 0) - rows * p) < 5 * math.sqrt(rows * p * (1 - p)) + 2, ids
    # All together: the sum of squares over its expectation, of those that are likely enough for it.
    likely = [(counts.get(ids, 0), rows * p) for ids, p in p_of.items() if rows * p > 8]
    off = sum((count - mean) ** 2 / mean for count, mean in likely)
    assert off < len(likely) + 5 * math.sqrt(2 * len(likely))
    assert 1.1 < pace.tokens / pace.passes < 2.9


@pytest.mark.parametrize("further", KINDS)
def test_sampling_is_keyed_by_seed_prompt_number_and_position_alone(further):
    model, how = trained_model(further), {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1}
    torch.manual_seed(1)
    together = generate_speculatively(model, BYTES, PROMPTS, 20, seed=5, **how)
    torch.manual_seed(2)
    assert generate_speculatively(model, BYTES, PROMPTS, 20, seed=5, **how) == together
    for number, prompt in enumerate(PROMPTS):
        assert_same(generate_speculatively(model, BYTES, [prompt], 20, seed=5, first_prompt=number, **how),
                    [together[number]])
    assert generate_speculatively(model, BYTES, PROMPTS, 20, seed=6, **how) != together
    assert len({tuple(result.ids) for result in generate_speculatively(
        model, BYTES, ["a"] * 6, 20, seed=5, **how)}) == 6


@pytest.mark.parametrize("further", KINDS)
def test_the_smallest_temperature_takes_the_best_token(further):
    for model in (trained_model(further), moe_model(further)):
        cold = generate_speculatively(model, BYTES, PROMPTS, 15, temperature=1e-320)
        assert [result.ids for result in cold] == [result.ids for result in generate(model, BYTES, PROMPTS, 15)]
        assert all(result.ties == 0 for result in cold)


def test_a_bf16_model_generates():
    for temperature, further in itertools.product((0.0, 0.8), KINDS):
        model = moe_model(further, dtype=torch.bfloat16)
        results = generate_speculatively(model, Bytes(), PROMPTS, 6, temperature=temperature)
        assert all(math.isfinite(logprob) for result in results for logprob in result.logprobs)
        assert all(result.stopped for result in results)


def test_mistakes_are_said():
    with pytest.raises(UserError, match="speculative: DecoderLm predicts the next token alone.*generate without it"):
        generate_speculatively(model_of(), Bytes(), ["a"], 5)
    with pytest.raises(UserError, match="model.next_tokens 1, and predicts the next token alone"):
        generate_speculatively(moe_model("parallel", next_tokens=1), Bytes(), ["a"], 5)
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        generate_speculatively(moe_model("parallel"), Bytes(), ["a"], 0)
    with pytest.raises(UserError, match="prompt 0 has 49 tokens"):
        generate_speculatively(moe_model("parallel"), Bytes(), ["b" * 48], 1)
    assert generate_speculatively(moe_model("parallel"), Bytes(), [], 5) == []

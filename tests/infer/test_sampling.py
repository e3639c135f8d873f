"""Generation, end to end: the cache against whole forward passes, batches against single prompts, stops, modes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from infer_help import BYTES, PROMPTS, Bytes, lively, model_of

from dstrain.config.errors import UserError
from dstrain.infer.sampling import Generated, generate
from dstrain.models.decoder_lm import DecoderLm

def without_cache(model: DecoderLm, prompt: str, max_new_tokens: int) -> tuple[list[int], list[float]]:
    """Greedy, one whole forward pass per token."""
    ids, new, logprobs = [256, *prompt.encode()], [], []
    model.eval()
    while len(new) < max_new_tokens and len(ids) <= model.length:
        ids_BT = torch.tensor([ids])
        hidden = model(ids_BT=ids_BT, segments_BT=torch.zeros_like(ids_BT), positions_BT=torch.arange(len(ids))[None],
                       keys_B=None).hidden_BTD
        log_p = torch.log_softmax(model.logits(hidden[0, -1]), -1)
        token = int(log_p.argmax())
        if token == 256:
            break
        new.append(token)
        ids.append(token)
        logprobs.append(log_p[token].item())
    model.train()
    return new, logprobs


@pytest.mark.parametrize("settings", [{}, {"block": "swiglu"}, {"positions": "learned"}, {"positions": "sinusoidal"}],
                         ids=str)
def test_with_cache_and_in_a_batch_equals_whole_forward_passes_one_by_one(settings: dict):
    model = model_of(**settings)
    for prompt, result in zip(PROMPTS, generate(model, Bytes(), PROMPTS, 12), strict=True):
        ids, logprobs = without_cache(model, prompt, 12)
        assert result.ids == ids and result.ties == 0
        assert result.logprobs == pytest.approx(logprobs, abs=1e-12)
        assert result.text == Bytes().decode(ids)
        alone = generate(model, Bytes(), [prompt], 12)[0]
        assert alone.ids == ids and alone.logprobs == pytest.approx(logprobs, abs=1e-12)


def test_sampling_is_keyed_by_seed_prompt_number_and_position_alone():
    model = model_of()
    torch.manual_seed(1)
    together = generate(model, Bytes(), PROMPTS, 10, temperature=1.0, seed=5)
    torch.manual_seed(2)
    assert generate(model, Bytes(), PROMPTS, 10, temperature=1.0, seed=5) == together
    for number, prompt in enumerate(PROMPTS):
        alone = generate(model, Bytes(), [prompt], 10, temperature=1.0, seed=5, first_prompt=number)[0]
        assert alone.ids == together[number].ids
    assert generate(model, Bytes(), PROMPTS, 10, temperature=1.0, seed=6) != together
    twins = generate(model, Bytes(), ["same", "same"], 10, temperature=1.0)
    assert twins[0].ids != twins[1].ids


def test_sampling_takes_nothing_from_the_global_generator():
    model = model_of()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    generate(model, Bytes(), ["a"], 3, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)


def test_sampled_frequencies_are_the_models_probabilities():
    model = model_of()
    log_p = torch.log_softmax(model.eval().logits(model(
        ids_BT=torch.tensor([[256]]), segments_BT=torch.zeros(1, 1), positions_BT=torch.zeros(1, 1).long(),
        keys_B=None).hidden_BTD[0, 0]), -1)
    for temperature in (1.0, 0.3):
        p = torch.softmax(log_p / temperature, -1)
        results = generate(model, Bytes(), [""] * 4000, 1, temperature=temperature)
        counts = torch.zeros(257).index_add(0, torch.tensor([(r.ids + [256])[0] for r in results]), torch.ones(4000))
        sigma = (4000 * p * (1 - p)).sqrt()
        assert ((counts - 4000 * p).abs() < 5 * sigma + 2).all()
    assert counts.argmax() == p.argmax()


def ending_after(tokens: int) -> DecoderLm:
    """A model whose best token is end-of-text after the start and `tokens` tokens: positions alone decide."""
    model = model_of(positions="learned")
    with torch.no_grad():
        model.embed.weight[256] = 0.0
        model.embed.weight[256, 0] = 1.0
        model.embed_positions.weight[:, 0] = -50.0
        model.embed_positions.weight[tokens, 0] = 50.0
    return model


def test_each_row_stops_at_its_own_end_of_text_which_is_not_part_of_the_text():
    model = ending_after(8)
    results = generate(model, Bytes(), ["abc", "abcdef"], 20)
    assert [result.stopped for result in results] == ["eot", "eot"]
    assert [len(result.ids) for result in results] == [5, 2]
    assert all(len(result.logprobs) == len(result.ids) and 256 not in result.ids for result in results)
    assert results[0].ids == generate(model, Bytes(), ["abc"], 20)[0].ids


def test_a_row_stops_at_the_models_length_with_one_token_more_than_it_can_read():
    results = generate(model_of(length=10), Bytes(), ["abc", "abcdefghi"], 100)
    assert [result.stopped for result in results] == ["length", "length"]
    assert [len(result.ids) for result in results] == [7, 1]            # 1 + 3 + 7 = 11 = 1 + 9 + 1


def test_max_new_tokens_stops():
    assert {(r.stopped, len(r.ids)) for r in generate(model_of(), Bytes(), PROMPTS, 3)} == {("max_new_tokens", 3)}


def test_what_another_prompt_says_changes_no_bit():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = model_of(dtype=dtype)
        one = generate(model, Bytes(), ["abc", "hello you"], 8)[0]
        assert one == generate(model, Bytes(), ["abc", "HELLO YOU"], 8)[0]          # logprobs too, exactly


def test_every_mode_is_restored_also_after_an_exception():
    model = model_of()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    generate(model, Bytes(), ["a"], 2)
    assert [module.training for module in model.modules()] == modes

    class Broken(Bytes):
        def decode(self, ids: Sequence[int]) -> str:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        generate(model, Broken(), ["a"], 2)
    model.logits = lambda hidden: 1 / 0
    with pytest.raises(ZeroDivisionError):
        generate(model, Bytes(), ["a"], 2)
    assert [module.training for module in model.modules()] == modes


def test_dropout_is_off():
    model = model_of(dropout=0.5)
    assert generate(model, Bytes(), ["abc"], 5) == generate(model.eval(), Bytes(), ["abc"], 5)


def test_equal_best_tokens_are_counted_as_ties():
    model = model_of()
    with torch.no_grad():
        model.embed.weight.zero_()                                      # all logits are 0
    result = generate(model, Bytes(), ["ab"], 4)[0]
    assert result == Generated(ids=[0] * 4, logprobs=[pytest.approx(-math.log(257))] * 4, stopped="max_new_tokens",
                               ties=4, text="0,0,0,0,")


def test_a_bf16_model_generates():
    results = generate(model_of(dtype=torch.bfloat16), Bytes(), PROMPTS, 6, temperature=0.8)
    assert all(result.ids and all(math.isfinite(logprob) for logprob in result.logprobs) for result in results)


def test_mistakes_are_said():
    with pytest.raises(UserError, match="prompt 1 has 49 tokens with its start.* rows of 48"):
        generate(model_of(), Bytes(), ["a", "b" * 48], 1)
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        generate(model_of(), Bytes(), ["a"], 0)
    with pytest.raises(UserError, match="stop: an empty string"):
        generate(model_of(), Bytes(), ["a"], 5, stop=["x", ""])
    assert generate(model_of(), Bytes(), [], 5) == []


def test_the_smallest_temperature_takes_the_best_token():
    greedy, = generate(model_of(), Bytes(), ["a"], 6)
    cold, = generate(model_of(), Bytes(), ["a"], 6, temperature=1e-320)
    assert cold.ids == greedy.ids


def test_options_that_are_off_change_no_bit():
    model = lively()
    for temperature in (0.0, 0.8):
        plain = generate(model, BYTES, PROMPTS, 20, temperature=temperature)
        assert plain == generate(model, BYTES, PROMPTS, 20, temperature=temperature, top_k=0, top_p=1.0,
                                 repetition_penalty=1.0, stop=["no such text"])


def test_logprobs_stay_the_models_own():
    """The same ids under a whole forward pass, whatever changed the choice."""
    model = lively()
    results = generate(model, BYTES, PROMPTS, 15, temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.5)
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids_BT = torch.tensor([[256, *prompt.encode(), *result.ids]])
        hidden = model.eval()(ids_BT=ids_BT, segments_BT=torch.zeros_like(ids_BT), keys_B=None,
                              positions_BT=torch.arange(ids_BT.shape[1])[None]).hidden_BTD
        log_p = torch.log_softmax(model.logits(hidden[0]), -1)[len(prompt):-1]
        own = log_p.gather(1, torch.tensor(result.ids)[:, None]).squeeze(1).tolist()
        assert result.logprobs == pytest.approx(own, abs=1e-10)


def test_the_penalty_is_for_tokens_of_prompt_and_continuation_but_not_for_the_start():
    model = model_of()
    with torch.no_grad():
        model.embed.weight.zero_()
    favourite = torch.zeros(257, dtype=torch.float64)
    favourite[[97, 98, 99, 256]] = torch.tensor([4.0, 3.0, 2.5, 2.2], dtype=torch.float64)
    model.logits = lambda hidden: favourite.expand(len(hidden), -1)
    assert generate(model, BYTES, ["z"], 4)[0].text == "aaaa"
    # halved once seen, not once a time: a 4, b 3, c 2.5, and then end-of-text, at 2.2 still, before a at 2
    result, = generate(model, BYTES, ["z"], 5, repetition_penalty=2.0)
    assert (result.text, result.stopped) == ("abc", "eot")
    favourite[256] = -9.0
    assert generate(model, BYTES, ["ba"], 4, repetition_penalty=2.0)[0].text == "caaa"


def following(text: str, prompt: str) -> DecoderLm:
    """A model that continues `prompt` with `text`, byte after byte, and then ends: positions alone decide."""
    model, ids = model_of(length=200), [*text.encode(), 256]
    place = [len(prompt.encode())]

    def logits(hidden):
        logits_BV = torch.zeros(len(hidden), 257, dtype=torch.float64)
        logits_BV[:, ids[place[0] - len(prompt.encode())]] = 10.0
        place[0] += 1
        return logits_BV

    model.logits, model.steps = logits, lambda: place[0] - len(prompt.encode())
    return model


@pytest.mark.parametrize("text, stops, expected, tokens", [
    ("one. two. three", [". t"], "one", 6),
    ("one. two. three", ["three", "two"], "one. ", 8),
    ("one", ["four"], "one", 3),
    ("äöü東京!", ["東"], "äöü", 9),                                      # the third byte of the character completes it
    ("abcd", ["bcd", "bc"], "a", 3),
    ("abcd", ["abc", "b"], "a", 2),
    ("abcd", ["d"], "abc", 4),
    ("aab", ["ab"], "a", 3),
])
def test_a_stop_string_ends_the_text_before_it_and_no_token_comes_after_it(text, stops, expected, tokens):
    model = following(text, "stop: four")
    result, = generate(model, BYTES, ["stop: four"], 50, stop=stops)
    assert model.steps() == tokens + (stops == ["four"])                # none was computed after it
    assert result.text == expected and BYTES.decode(result.ids) == text.encode()[:tokens].decode()
    assert result.stopped == ("eot" if stops == ["four"] else "stop") and len(result.logprobs) == len(result.ids)


def test_a_stop_string_in_the_prompt_or_across_its_end_does_not_count():
    result, = generate(following("bc abc", "xx ab"), BYTES, ["xx ab"], 50, stop=["abb", "xx", "abc"])
    assert result.text == "bc " and result.stopped == "stop"


def test_a_stop_string_wins_over_the_last_token_allowed():
    result, = generate(following("abc", ""), BYTES, [""], 3, stop=["c"])
    assert (result.stopped, result.text) == ("stop", "ab")


def test_each_row_stops_at_its_own_stop_string_and_the_others_go_on():
    model = lively()
    plain = generate(model, Bytes(), PROMPTS, 12, temperature=1.0)
    stops = [f",{plain[0].ids[3]},", f",{plain[3].ids[5]},"]
    for before, after in zip(plain, generate(model, Bytes(), PROMPTS, 12, temperature=1.0, stop=stops), strict=True):
        assert before.ids[:len(after.ids)] == after.ids and before.logprobs[:len(after.ids)] == after.logprobs
        assert not any(stop in after.text for stop in stops) and before.text.startswith(after.text)
        assert (after.stopped == "stop") == any(stop in before.text for stop in stops)


def test_what_is_shown_piece_by_piece_is_the_text():
    model, shown = lively(), [""] * len(PROMPTS)

    def show(place: int, piece: str) -> None:
        assert piece
        shown[place] += piece

    results = generate(model, BYTES, PROMPTS, 30, temperature=1.5, stop=["e", "xyz"], show=show)
    assert shown == [result.text for result in results]
    assert results == generate(model, BYTES, PROMPTS, 30, temperature=1.5, stop=["e", "xyz"])
    assert any("\N{REPLACEMENT CHARACTER}" in text for text in shown)                 # halves of characters, too

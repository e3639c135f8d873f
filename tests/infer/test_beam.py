"""The search: what beam.py says that it finds, the same in any batch; ties counted where float32 may part them."""

from __future__ import annotations

import random

import pytest
import torch
from translator_help import EOT, Small, plain_search, some_sources, with_twins

from dstrain.config.errors import UserError
from dstrain.config.translate import TranslateModel
from dstrain.infer.translate import limit_of, translate_ids
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.init import fill_initial

WAYS = [(1, 1.0), (2, 0.0), (3, 1.0), (5, 0.6), (5, 2.0), (30, 1.0)]


def seq2seq(dtype: torch.dtype = torch.float64, vocabulary: int = 40, **settings) -> Seq2Seq:
    """The real model, with logits of a spread, where the end is likely enough to come."""
    settings = {"width": 32, "heads": 2, "encoder_layers": 2, "decoder_layers": 2, "ff": 64} | settings
    model = fill_initial(Seq2Seq(TranslateModel(**settings), vocabulary, vocabulary, True, 60), seed=3).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
        model.decoder_norm.weight.mul_(3.0)
        model.embed.weight.mul_(2.0)
        model.embed.weight[EOT] *= 0.5
    return model


def parted(model, sources, beam: int) -> list[tuple]:
    """Each line found alone, in batches of 64, and in batches of 9 after a shuffle."""
    order = list(range(len(sources)))
    random.Random(1).shuffle(order)
    shuffled = translate_ids(model, [sources[n] for n in order], EOT, beam, batch=9)
    back = dict(zip(order, shuffled, strict=True))
    return list(zip(translate_ids(model, sources, EOT, beam, batch=1), translate_ids(model, sources, EOT, beam),
                    (back[n] for n in range(len(sources))), strict=True))


@pytest.mark.parametrize("beam, length_penalty", WAYS)
def test_it_finds_what_a_plain_search_without_cache_and_batch_finds(beam, length_penalty):
    sources = some_sources(4 if beam > 5 else 10)
    for model in (Small(), seq2seq()):
        found = translate_ids(model, sources, EOT, beam, length_penalty, batch=7)
        with torch.no_grad():
            for source, result in zip(sources, found, strict=True):
                ids, score, stopped = plain_search(model, source, limit_of(len(source), 60), beam, length_penalty)
                assert (result.ids, result.stopped) == (ids, stopped)
                assert result.score == pytest.approx(score, abs=1e-4)          # log p counts in steps of 2^-20


def test_a_beam_of_one_takes_the_best_token_each_time():
    model, sources = seq2seq(), some_sources(10)
    for source, result in zip(sources, translate_ids(model, sources, EOT, beam=1), strict=True):
        ids, limit = [], limit_of(len(source), model.length)
        while len(ids) < limit:
            with torch.no_grad():
                hidden = model.eval()(source_BS=torch.tensor([source]), source_lengths_B=torch.tensor([len(source)]),
                                      ids_BT=torch.tensor([[EOT, *ids]]), lengths_B=torch.tensor([len(ids) + 1]),
                                      keys_B=None).hidden_BTD[0, -1]
                token = int(model.logits(hidden).argmax())
            if token == EOT:
                break
            ids.append(token)
        assert result.ids == ids and (result.stopped == "end") == (len(ids) < limit)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("model", [
    lambda: Small(), lambda: Small(300, 32, spread=4.0, ends=0.5), lambda: Small(1000, 24, seed=2, ends=0.5), seq2seq,
    lambda: with_twins(Small()), lambda: with_twins(Small(300, 32, spread=4.0, ends=0.5)),
], ids=["small", "wide", "many", "seq2seq", "twins", "many-twins"])
def test_in_float64_a_line_is_translated_the_same_alone_in_any_batch_and_in_any_order(model, beam):
    for alone, in_batch, shuffled in parted(model(), some_sources(16), beam):
        assert alone == in_batch == shuffled                            # to the bit of the score


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("model", [
    lambda: Small(300, 32, spread=4.0, ends=0.5, dtype=torch.float32), lambda: seq2seq(torch.float32),
    lambda: with_twins(Small(300, 32, spread=4.0, ends=0.5, dtype=torch.float32), apart=3e-7),
    lambda: with_twins(Small(dtype=torch.float32), apart=3e-7),
], ids=["wide", "seq2seq", "many-twins", "twins"])
def test_in_float32_lines_part_only_where_a_tie_was_counted(model, beam):
    for results in parted(model(), some_sources(24), beam):
        assert len({tuple(result.ids) for result in results}) == 1 or all(result.ties for result in results)


def test_in_float32_lines_between_twins_do_part():
    """Or the sentence above would say nothing."""
    model = with_twins(Small(300, 32, spread=4.0, ends=0.5, dtype=torch.float32), apart=3e-7)
    found = parted(model, some_sources(60), 5)
    assert sum(len({tuple(result.ids) for result in results}) > 1 for results in found) > 1


def test_few_lines_are_flagged_where_nothing_is_made_to_tie():
    for model in (Small(300, 32, spread=4.0, ends=0.5, dtype=torch.float32), seq2seq(torch.float32)):
        found = translate_ids(model, some_sources(150), EOT, beam=5)
        assert sum(result.ties > 0 for result in found) <= 0.1 * len(found)
    assert not any(result.ties for result in translate_ids(Small(), some_sources(150), EOT, beam=5))


@pytest.mark.parametrize("beam", [1, 3])
def test_what_stands_in_padding_or_in_another_line_changes_no_bit(beam):
    model, sources = seq2seq(torch.float32), some_sources(6, longest=9)
    inner, logits = model.encode, model.logits

    def with_filler(source_BS, source_lengths_B):
        is_padding_BS = torch.arange(source_BS.shape[1]) >= source_lengths_B[:, None]
        return inner(source_BS.masked_fill(is_padding_BS, 31), source_lengths_B)

    def endless(hidden):
        return logits(hidden).index_fill(1, torch.tensor([EOT]), -1e4)  # all lines run to their limits: equal shapes

    expected = translate_ids(model, sources, EOT, beam)
    model.encode = with_filler
    assert translate_ids(model, sources, EOT, beam) == expected
    model.logits = endless
    one = translate_ids(model, sources, EOT, beam)[2]
    others = [[(token + 7) % 40 for token in source[:-1]] + [EOT] for source in sources]
    assert translate_ids(model, [*others[:2], sources[2], *others[3:]], EOT, beam)[2] == one
    assert translate_ids(model, others, EOT, beam)[2] != one


def test_finished_lines_leave_the_batch():
    model, rows = Small(), []
    inner = model.extend
    model.extend = lambda ids_BT, *rest: rows.append(len(ids_BT)) or inner(ids_BT, *rest)
    found = translate_ids(model, some_sources(20), EOT, beam=3)
    assert rows[:2] == [20, 60] and rows[1:] == sorted(rows[1:], reverse=True) and rows[-1] < 10
    assert len({len(result.ids) for result in found}) > 3


def fixed(probabilities: list[dict[int, float]], vocabulary: int = 8) -> Small:
    """A model whose next token depends on nothing but how many there are: what remains of 1 goes to no token."""
    model = Small(vocabulary)

    def logits(hidden):
        logits_V = torch.full((vocabulary,), -1e3, dtype=torch.float64)
        for token, p in probabilities[min(model.now, len(probabilities)) - 1].items():
            logits_V[token] = torch.tensor(p, dtype=torch.float64).log()
        return logits_V.expand(len(hidden), -1).clone()

    model.logits = logits
    return model


def test_a_longer_translation_may_win_by_the_divisor_alone():
    """Ends after one token with p 0.5, sum -0.69, or after six more that are certain: the same sum of log p, nearly."""
    model = fixed([{EOT: 0.52, 5: 0.48}, *[{6: 1.0}] * 5, {EOT: 1.0}])
    short, = translate_ids(model, [[4, EOT]], EOT, beam=2, length_penalty=0.0)
    long, = translate_ids(model, [[4, EOT]], EOT, beam=2, length_penalty=1.0)
    assert short.ids == [] and short.score == pytest.approx(-0.6539, abs=1e-4)
    assert long.ids == [5, 6, 6, 6, 6, 6] and long.score == pytest.approx(-0.7340 / 2.0, abs=1e-4)     # (5 + 7) / 6


def test_a_line_goes_on_exactly_until_nothing_can_beat_its_best():
    """Best finished: log 0.5 = -0.693 at length 1. The other can still reach log 0.5 / (17 / 6) at its limit of 12."""
    def steps(p_end: float) -> int:
        # After the first token all others are equally likely: the sum falls by log 4 = 1.39 each step
        model = fixed([{EOT: p_end, 5: 1 - p_end}, {token: 0.25 for token in (4, 5, 6, 7)}])
        result, = translate_ids(model, [[EOT]], EOT, beam=2, length_penalty=1.0)
        assert result.ids == [] and result.stopped == "end"
        return model.now

    # log(1 - p_end) - k log 4 <= log(p_end) * 17 / 6: for p 0.5, k = 1 (-2.08 <= -1.96); for p 0.2 k = 4 (-5.77, -4.56)
    assert steps(0.5) == 2 and steps(0.2) == 5


@pytest.mark.parametrize("beam", [1, 3])
def test_a_line_without_an_end_is_broken_off_at_its_own_limit(beam):
    model = fixed([{5: 0.6, 6: 0.4}])
    found = translate_ids(model, [[4, EOT], [4] * 11 + [EOT], [4] * 40 + [EOT]], EOT, beam)
    assert [len(result.ids) for result in found] == [14, 34, 60]        # 2 * 2 + 10, 2 * 12 + 10, the model's length
    assert all(result.stopped == "length" and set(result.ids) == {5} for result in found)


def test_equal_candidates_are_ordered_by_token_and_then_by_parent():
    model = fixed([{5: 0.25, 4: 0.25, 7: 0.25, 6: 0.25}, {7: 0.5, 6: 0.5}, {EOT: 1.0}])
    result, = translate_ids(model, [[4, EOT]], EOT, beam=2)
    assert result.ids == [4, 6] and result.ties > 0
    result, = translate_ids(model, [[4, EOT]], EOT, beam=1)
    assert result.ids == [4, 6] and result.ties == 2


def test_a_tie_behind_the_choice_of_an_end_is_none():
    model = fixed([{EOT: 0.8, 5: 0.1, 6: 0.1}])
    assert translate_ids(model, [[4, EOT]], EOT, beam=1)[0].ties == 0
    assert translate_ids(fixed([{EOT: 0.5, 5: 0.5}, {EOT: 1.0}]), [[4, EOT]], EOT, beam=1)[0].ties == 1
    # Ends now, or after one more token that is certain: without a divisor their sums are equal.
    equal = fixed([{EOT: 0.5, 5: 0.5}, {EOT: 1.0}])
    assert translate_ids(equal, [[4, EOT]], EOT, beam=2, length_penalty=0.0)[0].ties > 0


def test_two_translations_that_finish_with_equal_scores_are_a_tie():
    result, = translate_ids(fixed([{5: 0.5, 6: 0.5}, {EOT: 1.0}]), [[4, EOT]], EOT, beam=2)
    assert (result.ids, result.ties) == ([5], 1)
    result, = translate_ids(fixed([{5: 0.4, 6: 0.6}, {EOT: 1.0}]), [[4, EOT]], EOT, beam=2)
    assert (result.ids, result.ties) == ([6], 0)
    result, = translate_ids(fixed([{5: 0.5, 6: 0.5}, {7: 1.0}]), [[4, EOT]], EOT, beam=2)       # and two without an end
    assert (result.ids[:2], result.ties, result.stopped) == ([5, 7], 1, "length")


def test_a_vocabulary_smaller_than_the_beam_is_searched_whole():
    found = translate_ids(Small(5), some_sources(10, 5), EOT, beam=8)
    wide = translate_ids(Small(5), some_sources(10, 5), EOT, beam=8, batch=3)
    assert found == wide and all(result.ids is not None for result in found)


def test_a_model_that_says_nan_is_no_reason_to_crash():
    model = Small()
    model.logits = lambda hidden: torch.full((len(hidden), 23), float("nan"), dtype=torch.float64)
    for beam in (1, 4):
        result, = translate_ids(model, [[4, EOT]], EOT, beam)
        assert result.stopped == "length" and len(result.ids) == 14


def test_every_mode_is_restored_also_after_an_exception_and_dropout_is_off():
    model = Small().train()
    model.dropout.eval()
    modes = [module.training for module in model.modules()]
    found = translate_ids(model, some_sources(3), EOT, beam=2)
    assert [module.training for module in model.modules()] == modes
    model.dropout.train()
    assert translate_ids(model, some_sources(3), EOT, beam=2) == found
    model.logits = lambda hidden: 1 / 0
    with pytest.raises(ZeroDivisionError):
        translate_ids(model, some_sources(3), EOT, beam=2)
    assert model.dropout.training and model.training


@pytest.mark.parametrize("options, message", [
    ({"beam": 0}, "beam is 0, but must be at least 1"), ({"beam": 2, "length_penalty": -0.1}, "length_penalty is -0.1"),
    ({"beam": 2, "length_penalty": float("nan")}, "length_penalty is nan"), ({"batch": 0}, "batch is 0"),
    ({"beam": 1, "length_penalty": 0.5}, "length_penalty is 0.5, but with a beam of 1 there is nothing to choose"),
])
def test_mistakes_are_said(options, message):
    with pytest.raises(UserError, match=message):
        translate_ids(Small(), [[4, EOT]], EOT, **options)

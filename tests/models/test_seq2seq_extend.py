"""Translating step by step: one encoding and a key-value cache give what one forward pass over the pair gives."""

from __future__ import annotations

import pytest
import torch
from seq2seq_help import pairs, small_seq2seq

VARIANTS = [{}, {"block": "swiglu"}, {"positions": "learned"}, {"positions": "sinusoidal"}, {"shared": False}]
SOURCES, TARGETS = [5, 9, 1], [11, 11, 11]


def memory_of(model, inputs):
    return model.encode(inputs["source_BS"], inputs["source_lengths_B"])


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_pieces_of_any_length_give_the_whole_targets_hidden_states(settings: dict):
    model, inputs = small_seq2seq(dropout=0.1, **settings).eval(), pairs(SOURCES, TARGETS)
    whole_BTD = model(**inputs, keys_B=None).hidden_BTD
    memory, cache, done = memory_of(model, inputs), model.new_cache(3, 11), [0, 0, 0]
    for pieces in ([1, 1, 1], [0, 4, 1], [3, 1, 0], [7, 5, 9]):
        ids_BT = torch.full((3, max(pieces)), 49)                       # padding holds a real id
        for row, piece in enumerate(pieces):
            ids_BT[row, :piece] = inputs["ids_BT"][row, done[row]:done[row] + piece]
        hidden_BTD = model.extend(ids_BT, torch.tensor(pieces), cache, memory)
        assert hidden_BTD.isfinite().all() and not hidden_BTD.requires_grad
        for row, piece in enumerate(pieces):
            expected = whole_BTD[row, done[row]:done[row] + piece]
            torch.testing.assert_close(hidden_BTD[row, :piece], expected, rtol=0, atol=1e-12)
            done[row] += piece
    assert done == TARGETS == cache.lengths_B.tolist()


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_rows_that_are_reordered_repeated_and_left_out_go_on_as_themselves(settings: dict):
    model, inputs = small_seq2seq(**settings).eval(), pairs(SOURCES, TARGETS)
    whole_BTD = model(**inputs, keys_B=None).hidden_BTD
    memory, cache = memory_of(model, inputs), model.new_cache(3, 11)
    rows, done = [0, 1, 2], torch.tensor([4, 2, 3])
    model.extend(inputs["ids_BT"][:, :4], done, cache, memory)
    for picked in ([2, 0, 0, 1, 2], [3, 0, 1], [2, 2, 0, 1], [1, 2]):
        rows, picked_N = [rows[place] for place in picked], torch.tensor(picked)
        cache.pick(picked_N)
        memory, done = memory.of_rows(picked_N), done[picked_N]
        assert cache.lengths_B.tolist() == done.tolist()
        ids_N1 = inputs["ids_BT"][rows, done].unsqueeze(1)
        hidden_N1D = model.extend(ids_N1, torch.ones_like(done), cache, memory)
        torch.testing.assert_close(hidden_N1D[:, 0], whole_BTD[rows, done], rtol=0, atol=1e-12)
        done = done + 1


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_rows_one_after_another_may_share_their_source(settings: dict):
    model, inputs = small_seq2seq(**settings).eval(), pairs(SOURCES, TARGETS)
    twice_N = torch.tensor([0, 0, 1, 1, 2, 2])
    memory, results = memory_of(model, inputs), []
    for sources in (memory, memory.of_rows(twice_N)):
        cache, ids_BT = model.new_cache(6, 11), inputs["ids_BT"].flatten()[:18].view(6, 3)
        first = model.extend(ids_BT, torch.full((6,), 3), cache, sources)
        results.append(torch.cat([first, model.extend(ids_BT[:, :1], torch.ones(6).long(), cache, sources)], dim=1))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


def test_what_padding_holds_changes_no_bit_and_a_row_alone_is_the_same():
    model, inputs = small_seq2seq().eval(), pairs([5, 9], [4, 4])
    outcomes = []
    for filler in (0, 31):
        source_BS = inputs["source_BS"].masked_fill(torch.arange(9) >= inputs["source_lengths_B"][:, None], filler)
        memory, cache = model.encode(source_BS, inputs["source_lengths_B"]), model.new_cache(2, 6)
        first = model.extend(torch.tensor([[1, 2, 3, 4], [5, filler, filler, filler]]), torch.tensor([4, 1]), cache,
                             memory)
        again = model.extend(torch.tensor([[6], [filler]]), torch.tensor([1, 0]), cache, memory)
        outcomes.append([first[0], first[1, 0], again[0, 0]])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
    memory, cache = model.encode(inputs["source_BS"][:1, :5], torch.tensor([5])), model.new_cache(1, 5)
    alone = model.extend(torch.tensor([[1, 2, 3, 4, 6]]), torch.tensor([5]), cache, memory)[0]
    torch.testing.assert_close(alone, torch.cat([outcomes[0][0], outcomes[0][2][None]]), rtol=0, atol=1e-12)


def test_a_source_is_encoded_once_for_all_calls():
    model, inputs = small_seq2seq().eval(), pairs(SOURCES, TARGETS)
    calls: list[int] = []
    for module in (*model.encoder, *(block.cross_attention.kv for block in model.decoder)):
        module.register_forward_hook(lambda module, args, output: calls.append(1))
    memory, cache = memory_of(model, inputs), model.new_cache(3, 11)
    for place in range(4):
        model.extend(inputs["ids_BT"][:, place:place + 1], torch.ones(3, dtype=torch.long), cache, memory)
    assert len(calls) == 2 + 2


def test_a_cache_or_a_source_that_is_too_long_is_said():
    model = small_seq2seq().eval()
    with pytest.raises(ValueError, match="25 tokens goes beyond this model's length 24"):
        model.new_cache(1, 25)
    with pytest.raises(ValueError, match="source of 25 tokens"):
        model.encode(torch.ones(1, 25, dtype=torch.long), torch.tensor([25]))


def test_translating_in_training_mode_with_dropout_is_refused():
    model, inputs = small_seq2seq(dropout=0.1), pairs([5], [4])
    with pytest.raises(ValueError, match="eval"):
        memory_of(model, inputs)
    memory = memory_of(model.eval(), inputs)
    with pytest.raises(ValueError, match="eval"):
        model.train().extend(torch.tensor([[1]]), torch.tensor([1]), model.new_cache(1), memory)

"""Test-time training: learned from a puzzle's demonstrations alone, always with the same bits, and without a trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from grid_help import example, model_of, task_of
from torch import nn

from dstrain.config.arc import PuzzleData
from dstrain.data.grids.grid_batch import collate_grids
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER, row_of
from dstrain.data.grids.task import Task
from dstrain.data.grids.tokens import VOCABULARY, grid_of
from dstrain.infer.adapting import Adapting, adapted, rows_of_step
from dstrain.nn.adapters import is_adapter
from dstrain.nn.transformer import Hidden

AS_THEY_ARE = PuzzleData(train=(), symmetries=False, colours="none")
IN_VIEWS = PuzzleData(train=(), demonstrations=2)
EXCHANGED = task_of("exchange", ("01 23", "02 13"), ("21 41", "12 42"), ("02 12", "01 21"), ("30 10", "30 20"),
                    ("12 21", "21 12"))
"""1 and 2 change places; no demonstration shows the query's grid"""
HOW = Adapting(steps=4, rank=2, lr=1e-2, rows_a_step=3, seed=5)


class Copier(nn.Module):
    """The tiniest encoder-decoder: each id that it writes depends on the id of the query at its place, and on its
    demonstrations nothing. Untrained it copies."""

    def __init__(self) -> None:
        super().__init__()
        self.output_weight = nn.Parameter(4 * torch.eye(VOCABULARY))
        self.up, self.down = nn.Linear(VOCABULARY, 32), nn.Linear(32, VOCABULARY)
        for number, matrix in enumerate((self.up.weight, self.down.weight)):
            matrix.data = 0.1 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(number))
        self.up.bias.data.zero_(), self.down.bias.data.zero_()

    def forward(self, *, source_BS, source_lengths_B, ids_BT, lengths_B, keys_B):
        x_BTC = F.one_hot(source_BS, VOCABULARY).float()
        return Hidden(x_BTC + self.down(F.gelu(self.up(x_BTC))))

    def answer(self, task):
        batch = collate_grids([row_of([], task.queries[0], with_answer=False)], [0], ENCODER_DECODER)
        hidden = self(**batch.inputs(), keys_B=None).hidden_BTD
        return grid_of((hidden @ self.output_weight.T).argmax(-1)[0].tolist())


def learned(model, task, data, kind, how=HOW, length=130):
    """What came of it, and the adapters."""
    with adapted(model, task, data, kind, length, how) as found:
        return found, {name: parameter.detach().clone() for name, parameter in model.named_parameters()
                       if is_adapter(name)}


def test_an_exchange_of_colours_is_learned_from_demonstrations_and_forgotten_again():
    model = Copier()
    wanted = np.array([[2, 1], [1, 2]])
    assert np.array_equal(model.answer(EXCHANGED), [[1, 2], [2, 1]])
    with adapted(model, EXCHANGED, AS_THEY_ARE, ENCODER_DECODER, 16, replace(HOW, steps=60)) as found:
        assert np.array_equal(model.answer(EXCHANGED), wanted)
    assert len(found.losses) == 60 and found.rows == 180 and found.losses[-1] < 0.2 * found.losses[0]
    assert found.why_not is None and found.left_out == 0
    assert np.array_equal(model.answer(EXCHANGED), [[1, 2], [2, 1]])


@pytest.mark.parametrize("kind, data", [(DECODER, IN_VIEWS), (CHAMPION, IN_VIEWS), (ENCODER_DECODER, AS_THEY_ARE)])
def test_the_truth_and_the_queries_change_no_bit_of_what_is_learned(kind, data):
    model = model_of(kind)
    found, adapters = learned(model, EXCHANGED, data, kind)
    assert len(adapters) > 8 and all(bool(weight.any()) for weight in adapters.values()) and found.rows > 6
    for queries in ((example("12 21", "00 00"),), (example("12 21", None),), (), (example("7", "9"),) * 3):
        other = Task(EXCHANGED.name, "other", EXCHANGED.demonstrations, queries)
        assert same(adapters, learned(model, other, data, kind)[1])


def test_what_is_learned_depends_on_puzzle_and_seed_and_not_on_what_was_learned_before():
    model = model_of(DECODER)
    _, first = learned(model, EXCHANGED, IN_VIEWS, DECODER)
    for task, how in ((replace(EXCHANGED, name="other"), HOW), (EXCHANGED, replace(HOW, seed=6)),
                      (replace(EXCHANGED, demonstrations=EXCHANGED.demonstrations[:3]), HOW)):
        assert not same(first, learned(model, task, IN_VIEWS, DECODER, how)[1])
    torch.manual_seed(99)
    assert same(first, learned(model, EXCHANGED, IN_VIEWS, DECODER)[1])
    with torch.no_grad():
        assert same(first, learned(model, EXCHANGED, IN_VIEWS, DECODER)[1])


def test_the_first_adapters_are_the_puzzle_s_own():
    """An encoder-decoder's rows of one demonstration are the same under any name."""
    one = replace(EXCHANGED, demonstrations=EXCHANGED.demonstrations[:1])
    _, first = learned(Copier(), one, AS_THEY_ARE, ENCODER_DECODER)
    assert not same(first, learned(Copier(), replace(one, name="other"), AS_THEY_ARE, ENCODER_DECODER)[1])


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    model = model_of(ENCODER_DECODER)
    model.train()
    model.encoder.eval()
    model.embed.weight.requires_grad_(False)

    def state():
        return ([(name, id(module), module.training) for name, module in model.named_modules()],
                {name: (id(one), one.requires_grad, one.grad) for name, one in model.named_parameters()})

    before, values = state(), {name: one.detach().clone() for name, one in model.named_parameters()}
    if fails:
        model.decoder_norm.register_forward_hook(fail_at_call(3))
        with pytest.raises(KeyError):
            learned(model, EXCHANGED, AS_THEY_ARE, ENCODER_DECODER)
    else:
        learned(model, EXCHANGED, AS_THEY_ARE, ENCODER_DECODER)
    assert state() == before
    assert same(values, dict(model.named_parameters()))


def fail_at_call(number):
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) == number:
            raise KeyError

    return hook


def test_each_demonstration_is_the_query_equally_often_and_is_not_shown_beside_itself():
    asked = [rows_of_step(EXCHANGED, AS_THEY_ARE, DECODER, 130, HOW, step) for step in range(4)]
    rows = [row for step in asked for row in step]
    wanted = [row_of([], one) for one in EXCHANGED.demonstrations]
    counts = [sum(np.array_equal(row.query, one.query) for row in rows) for one in wanted]
    assert counts == [3, 3, 3, 3]
    for row in rows:
        number = next(n for n, one in enumerate(wanted) if np.array_equal(row.query, one.query))
        assert np.array_equal(row.answer, wanted[number].answer) and len(row.shown) == 3
        assert not any(np.array_equal(shown, row.query) for shown, _ in row.shown)


def test_rows_are_seen_in_views_but_those_of_an_encoder_decoder_which_could_not_know_the_view():
    seen = {kind: [row for step in range(4) for row in rows_of_step(EXCHANGED, IN_VIEWS, kind, 130, HOW, step)]
            for kind in (DECODER, ENCODER_DECODER)}
    plain = {row_of([], one).query.tobytes() for one in EXCHANGED.demonstrations}
    assert all(row.query.tobytes() in plain for row in seen[ENCODER_DECODER])
    assert sum(row.query.tobytes() not in plain for row in seen[DECODER]) > 6


def test_one_demonstration_teaches_an_encoder_decoder_alone():
    one = replace(EXCHANGED, demonstrations=EXCHANGED.demonstrations[:1])
    found, adapters = learned(model_of(DECODER), one, IN_VIEWS, DECODER)
    assert found.why_not == "it has one demonstration, and none to show beside it" and not adapters
    found, adapters = learned(model_of(ENCODER_DECODER), one, AS_THEY_ARE, ENCODER_DECODER)
    assert found.why_not is None and found.rows == 12 and adapters
    none = replace(EXCHANGED, demonstrations=())
    assert "no demonstration" in learned(model_of(ENCODER_DECODER), none, AS_THEY_ARE, ENCODER_DECODER)[0].why_not


def test_what_does_not_fit_is_left_out_and_counted():
    """A sequence of two pairs of 2 x 2 grids takes 2 x (1 + 6 + 1 + 7) - 1 = 29 positions: its end is never read."""
    model = model_of(DECODER)
    assert learned(model, EXCHANGED, AS_THEY_ARE, DECODER, length=29)[0].left_out == 0
    found, adapters = learned(model, EXCHANGED, AS_THEY_ARE, DECODER, length=28)
    assert found.left_out == 12 and not found.rows
    assert found.why_not == "no demonstration fits 28 positions beside another"
    assert not any(bool(weight.any()) for name, weight in adapters.items() if name.endswith("up"))


def test_a_loss_that_is_not_a_number_leaves_the_model_to_answer_as_it_is():
    model = Copier()
    with torch.no_grad():
        model.down.bias.fill_(torch.nan)
    found, adapters = learned(model, EXCHANGED, AS_THEY_ARE, ENCODER_DECODER)
    assert "loss is nan in step 1" in found.why_not and not any(bool(weight.any()) for weight in adapters.values())


def test_adapters_that_a_model_has_already_are_part_of_what_is_adapted():
    model, other = Copier(), Copier()
    with adapted(model, EXCHANGED, AS_THEY_ARE, ENCODER_DECODER, 16, replace(HOW, steps=60)):
        for parent, name in ((model, "up"), (model, "down")):
            setattr(other, name, getattr(parent, name))
    assert np.array_equal(other.answer(EXCHANGED), [[2, 1], [1, 2]])
    with adapted(other, replace(EXCHANGED, name="again"), AS_THEY_ARE, ENCODER_DECODER, 16, HOW) as found:
        assert found.losses[0] < 0.2
    assert np.array_equal(other.answer(EXCHANGED), [[2, 1], [1, 2]])


@pytest.mark.parametrize("change, said", [({"steps": -1}, "steps is -1"), ({"rank": 0}, "rank is 0"),
                                          ({"lr": 0.0}, "lr is 0.0"), ({"lr": float("nan")}, "lr is nan"),
                                          ({"rows_a_step": 0}, "rows_a_step is 0")])
def test_numbers_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        learned(Copier(), EXCHANGED, AS_THEY_ARE, ENCODER_DECODER, replace(HOW, **change))


def test_weights_of_16_bits_are_refused():
    with pytest.raises(ValueError, match="adapt a model in float32"):
        learned(Copier().bfloat16(), EXCHANGED, AS_THEY_ARE, ENCODER_DECODER)


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(weight, other[name]) for name, weight in one.items())

"""The mask law through encoder, cross-attention and decoder: padding, neighbours and the future reach nothing scored.

In most tests row 0 is looked at: a source of 5 tokens in 9 positions, a target of 7 in 11.
"""

from __future__ import annotations

import pytest
import torch
from seq2seq_help import VARIANTS, labels_of, pairs, small_seq2seq
from torch import Tensor

from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.chance import row_keys
from dstrain.nn.heads import summed_nll
from dstrain.objectives.smoothed_next_token import SmoothedNextToken
from dstrain.objectives.trainee import Trainee

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
BATCH = ([5, 9, 1], [7, 3, 11])                                        # lengths of the sources and targets
OBJECTIVE = SmoothedNextToken(0.1)


def hidden_states(model: Seq2Seq, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs, keys_B=row_keys(1, 1, torch.arange(len(inputs["ids_BT"])))).hidden_BTD


def outcome(model: Seq2Seq, inputs: dict[str, Tensor], rows: list[int]) -> list[Tensor]:
    """Hidden states of the rows, their summed loss, and every parameter's gradient of it."""
    keys_B = row_keys(1, 1, torch.arange(len(inputs["ids_BT"])))
    sums = Trainee(model, OBJECTIVE)(inputs=inputs, labels_BT=labels_of(inputs, rows), keys_B=keys_B)
    loss = 0.9 * sums.nll[0] + 0.1 * sums.nll[1]
    hidden = [hidden_states(model, inputs)[row, :inputs["lengths_B"][row]] for row in rows]
    return [*hidden, loss, *torch.autograd.grad(loss, list(model.parameters()))]


def changed(inputs: dict[str, Tensor], side: str, row: int, place: slice) -> dict[str, Tensor]:
    """The same batch with every id in one place replaced by a real one."""
    ids = inputs[side].clone()
    ids[row, place] = (ids[row, place] + 17) % 40
    return inputs | {side: ids}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("side, row, place", [
    ("source_BS", 0, slice(5, 9)), ("ids_BT", 0, slice(7, 11)), ("source_BS", 1, slice(0, 9)),
    ("ids_BT", 1, slice(0, 11)), ("source_BS", 2, slice(0, 9)), ("ids_BT", 2, slice(0, 11))],
    ids=["source padding", "target padding", "source 1", "target 1", "source 2", "target 2"])
def test_what_stands_elsewhere_changes_no_bit_of_hidden_states_loss_or_gradient(settings: dict, dtype: torch.dtype,
                                                                               side: str, row: int, place: slice):
    model, inputs = small_seq2seq(dropout=0.1, dtype=dtype, **settings), pairs(*BATCH)
    before, after = (outcome(model, batch, [0]) for batch in (inputs, changed(inputs, side, row, place)))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_the_same_changes_inside_a_row_are_seen_everywhere_they_should_be(settings: dict):
    model, inputs = small_seq2seq(dropout=0.1, **settings), pairs(*BATCH)
    before = hidden_states(model, inputs)
    assert (hidden_states(model, changed(inputs, "source_BS", 0, slice(4, 5)))[0] != before[0]).any(-1).all()
    after = hidden_states(model, changed(inputs, "ids_BT", 0, slice(3, 4)))
    assert torch.equal(after[0, :3], before[0, :3]) and (after[0, 3:] != before[0, 3:]).any(-1).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_row_alone_or_in_any_batch_with_any_padding_has_the_same_hidden_states_loss_and_gradient(
        settings: dict, dtype: torch.dtype, tolerance: float):
    model, inputs = small_seq2seq(dropout=0.1, dtype=dtype, **settings), pairs(*BATCH)
    expected = outcome(model, {name: tensor[:1, :cut] if cut else tensor[:1] for (name, tensor), cut
                               in zip(inputs.items(), (5, 0, 7, 0), strict=True)}, [0])
    others = [{name: tensor[:rows] for name, tensor in inputs.items()} for rows in (1, 2, 3)]
    for padding in ((0, 13), (15, 0), (15, 13)):
        padded = {"source_BS": torch.nn.functional.pad(inputs["source_BS"], (0, padding[0]), value=3),
                  "ids_BT": torch.nn.functional.pad(inputs["ids_BT"], (0, padding[1]), value=8)}
        others.append(inputs | padded)
    for batch in others:
        for ours, theirs in zip(outcome(model, batch, [0]), expected, strict=True):
            assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_logit_has_exactly_no_gradient_from_later_targets_padding_or_other_rows(settings: dict):
    model, inputs = small_seq2seq(dropout=0.1, **settings), pairs(*BATCH)
    embedded: list[Tensor] = []
    for module in {model.embed, model.source_embed} - {None}:
        module.register_forward_hook(lambda module, args, output: embedded.append(output))
    hidden_BTD = hidden_states(model, inputs)
    source_BSC, target_BTC = embedded
    for position in range(7):
        gradients = torch.autograd.grad(model.logits(hidden_BTD[0, position])[7], [source_BSC, target_BTC],
                                        retain_graph=True)
        from_source_BS, from_target_BT = (gradient.abs().sum(-1) for gradient in gradients)
        assert (from_source_BS[0, :5] > 0).all() and (from_target_BT[0, :position + 1] > 0).all()
        from_source_BS[0, :5] = 0
        from_target_BT[0, :position + 1] = 0
        assert (from_source_BS == 0).all() and (from_target_BT == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_later_targets_change_no_bit_of_earlier_positions(settings: dict, dtype: torch.dtype):
    model, inputs = small_seq2seq(dropout=0.1, dtype=dtype, **settings), pairs(*BATCH)
    before = hidden_states(model, inputs)
    for cut in range(1, 11):
        after = hidden_states(model, changed(inputs, "ids_BT", 2, slice(cut, 11)))
        assert torch.equal(before[2, :cut], after[2, :cut]) and (before[2, cut:] != after[2, cut:]).any(-1).all()


@pytest.mark.parametrize("own_id", [0, 39], ids=["the padding's id", "the end's id"])
def test_ids_that_mean_something_elsewhere_are_attended_like_all_others(own_id: int):
    model, inputs = small_seq2seq(), pairs([9], [11])
    inputs["source_BS"][0, 2:6] = inputs["source_BS"][0, 8] = own_id    # also as the source's end
    inputs["ids_BT"][0, 0] = inputs["ids_BT"][0, 2:5] = own_id          # also as the start
    embedded: list[Tensor] = []
    model.embed.register_forward_hook(lambda module, args, output: embedded.append(output))
    hidden_BTD = model(**inputs, keys_B=None).hidden_BTD
    from_source_BSC, from_target_BTC = torch.autograd.grad(hidden_BTD[0, 10, 3], embedded)
    assert (from_source_BSC.abs().sum(-1) > 0).all() and (from_target_BTC.abs().sum(-1) > 0).all()


def test_masks_do_not_see_ids_at_all():
    model = small_seq2seq()
    seen: list[list[Tensor]] = []
    inner = torch.nn.functional.scaled_dot_product_attention

    def noted(q, k, v, attn_mask):
        seen[-1].append(attn_mask)
        return inner(q, k, v, attn_mask=attn_mask)

    inputs = pairs(*BATCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        for batch in (inputs, inputs | {"source_BS": inputs["source_BS"] * 0, "ids_BT": inputs["ids_BT"] * 0}):
            seen.append([])
            model(**batch, keys_B=None)
    assert len(seen[0]) == 2 + 2 * 2
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


@pytest.mark.parametrize("eot", [0, 5])
def test_real_ends_and_starts_are_scored_and_learned_although_padding_holds_their_id(eot: int):
    # A source is ids + end, a decoder's input start + ids, its labels ids + end; start and end are one id.
    inputs = {"source_BS": torch.tensor([[8, 9, eot, 0, 0]]), "source_lengths_B": torch.tensor([3]),
              "ids_BT": torch.tensor([[eot, 11, 12, 0]]), "lengths_B": torch.tensor([3])}
    labels_BT = torch.tensor([[11, 12, eot, -100]])
    model = small_seq2seq()
    hidden_BTD = model(**inputs, keys_B=None).hidden_BTD
    log_p_TV = model.logits(hidden_BTD)[0].log_softmax(-1)
    by_hand = -(log_p_TV[0, 11] + log_p_TV[1, 12] + log_p_TV[2, eot])
    assert summed_nll(hidden_BTD, model.output_weight, labels_BT).item() == pytest.approx(by_hand.item(), rel=1e-13)
    last = summed_nll(hidden_BTD, model.output_weight, torch.tensor([[-100, -100, eot, -100]]))
    gradient_D = torch.autograd.grad(last, hidden_BTD)[0][0, 2]
    expected_D = (log_p_TV[2].exp() - torch.nn.functional.one_hot(torch.tensor(eot), 50)) @ model.embed.weight
    torch.testing.assert_close(gradient_D, expected_D.detach(), rtol=1e-12, atol=1e-14)


FILLERS = {"one filler row": ([0], [0], (1, 1)), "filler rows": ([0, 0], [0, 0], (9, 11))}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
def test_a_batch_of_filler_rows_gives_0_and_every_parameter_a_gradient_of_exactly_0(settings: dict, filler,
                                                                                    dtype: torch.dtype):
    source_lengths, lengths, slots = filler
    model, inputs = small_seq2seq(dropout=0.1, dtype=dtype, **settings), pairs(source_lengths, lengths, slots)
    keys_B = row_keys(1, 1, torch.full((len(lengths),), -1))
    for objective in (SmoothedNextToken(0.0), OBJECTIVE):
        model.zero_grad()
        sums = Trainee(model, objective)(inputs=inputs, labels_BT=labels_of(inputs), keys_B=keys_B)
        assert sums.nll.tolist() == [0.0] * len(objective.terms)
        sums.nll.sum().backward()
        assert [name for name, parameter in model.named_parameters()
                if parameter.grad is None or not (parameter.grad == 0).all()] == []


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_filler_rows_beside_real_ones_change_no_bit(settings: dict):
    model = small_seq2seq(dropout=0.1, **settings)
    rows = {name: tensor[:2] for name, tensor in pairs(*BATCH).items()}
    with_filler = {name: torch.cat([tensor, torch.zeros_like(tensor[:1])]) for name, tensor in rows.items()}
    other_ids = {name: torch.cat([tensor, torch.full_like(tensor[:1], 0 if name.endswith("lengths_B") else 31)])
                 for name, tensor in rows.items()}
    expected, first, second = (outcome(model, batch, [0, 1]) for batch in (rows, with_filler, other_ids))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for ours, theirs in zip(first, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm()
    assert hidden_states(model, with_filler).isfinite().all()

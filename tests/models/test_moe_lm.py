"""The model of experts and several heads: its size, its names, what each head may see, and its cache."""

from __future__ import annotations

import math

import pytest
import torch

from dstrain.config.moe import MoeModel
from dstrain.config.presets import MOE_PRESETS
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.expert_block import ExpertBlock
from dstrain.nn.heads import summed_nll
from dstrain.nn.init import fill_initial

SMALL = {"width": 16, "heads": 2, "layers": 2, "ff": 24, "experts": 4, "expert_ff": 12, "next_tokens": 3}
KINDS = pytest.mark.parametrize("further", ["parallel", "sequential"])


def small(seed: int = 1, **settings) -> MoeLm:
    return fill_initial(MoeLm(MoeModel(**SMALL | settings), 50, 12, bias_speed=1e-3), seed).double().eval()


def one_document(ids: list[int]) -> dict[str, torch.Tensor]:
    ids_BT = torch.tensor([ids])
    return {"ids_BT": ids_BT, "segments_BT": torch.zeros_like(ids_BT), "positions_BT": torch.arange(len(ids))[None]}


def test_parameters_counted_by_hand():
    with torch.device("meta"):
        model = MoeLm(MoeModel(**SMALL, every=2, shared_experts=1), 50, 12, 0.0)
    attention, norms = 4 * 16 * 16, 2 * 16
    dense, experts = 3 * 16 * 24, 4 * 16 + 4 * 3 * 16 * 12 + 3 * 16 * 12
    heads = 2 * (3 * 16 * 24 + 2 * 16)
    by_hand = 50 * 16 + 2 * (attention + norms) + dense + experts + 16 + heads
    assert sum(p.numel() for p in model.parameters()) == by_hand


@pytest.mark.parametrize("preset", MOE_PRESETS)
def test_two_experts_of_a_preset_are_as_large_as_its_feed_forward(preset: str):
    sizes = MOE_PRESETS[preset]
    assert 2 * sizes["expert_ff"] == sizes["ff"] and sizes["width"] % sizes["heads"] == 0


@KINDS
def test_the_first_loss_of_every_head_is_ln_of_the_vocabulary(further: str):
    model = fill_initial(MoeLm(MoeModel(**SMALL | {"width": 64, "further": further}), 300, 64, 0.0), seed=1)
    ids = torch.randint(0, 300, (64,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden = model(**one_document(ids.tolist()), keys_B=None)
        for head, hidden_BTC in enumerate(hidden.heads):
            loss = summed_nll(hidden_BTC, model.output_weight, ids.roll(-head - 1)[None]).item() / 64
            assert loss == pytest.approx(math.log(300), rel=0.03)


def test_every_nth_layer_has_experts():
    model = small(layers=5, every=2)
    assert [isinstance(block, ExpertBlock) for block in model.blocks] == [False, True, False, True, False]
    assert len(model(**one_document([1, 2]), keys_B=None).routed) == len(model.expert_layers) == 2


def test_initial_values_by_name():
    model = fill_initial(MoeLm(MoeModel(**SMALL | {"width": 64, "layers": 8, "expert_ff": 64}), 300, 12, 0.0), seed=3)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        else:
            into_the_stream = name.endswith(("attention.out.weight", "ff.down.weight", "experts.down"))
            assert parameter.std().item() == pytest.approx(0.02 / 4 if into_the_stream else 0.02, rel=0.1), name
        assert model.no_decay(name) == ("norm" in name), name
    assert (model.initial("blocks.0.ff.router.nudges", (4,), 3) == 0).all()


@KINDS
def test_a_head_sees_up_to_the_token_before_its_own_and_no_further(further: str):
    """Head k predicts the token k places on. A sequential one is given those in between, a parallel one is not."""
    model, ids = small(further=further), [7, 3, 9, 4, 8, 2, 6, 1]
    before = model(**one_document(ids), keys_B=None).heads
    for changed in range(len(ids)):
        other = [*ids[:changed], 30, *ids[changed + 1:]]
        after = model(**one_document(other), keys_B=None).heads
        for head, (one, two) in enumerate(zip(before, after, strict=True)):
            reach = changed - head if further == "sequential" else changed
            same = (one - two).abs().amax(-1)[0] < 1e-12
            assert same[:max(0, reach)].all(), (changed, head)
            assert not same[changed], (changed, head)
            last_with_a_label = len(ids) - 1 - head
            if further == "sequential" and head and head <= changed <= last_with_a_label:
                assert not same[reach], (changed, head)


@KINDS
def test_other_documents_and_padding_reach_no_head(further: str):
    model = small(further=further)
    segments_BT = torch.tensor([[0, 0, 0, 1, 1, 1, -1, -1]])
    positions_BT = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0]])
    ids_BT = torch.tensor([[7, 3, 9, 4, 8, 2, 6, 1]])
    row = {"segments_BT": segments_BT, "positions_BT": positions_BT, "keys_B": None}
    heads = model(ids_BT=ids_BT, **row).heads
    others_BT = torch.tensor([[7, 3, 9, 5, 5, 5, 5, 5]])
    for one, two in zip(heads, model(ids_BT=others_BT, **row).heads, strict=True):
        torch.testing.assert_close(one[:, :3], two[:, :3], rtol=1e-12, atol=1e-13)
    alone = model(**one_document([4, 8, 2]), keys_B=None).heads
    for one, two in zip(heads, alone, strict=True):
        torch.testing.assert_close(one[:, 3:6], two, rtol=1e-11, atol=1e-12)


def test_padding_is_in_no_count_and_no_balance():
    model, segments_BT = small(), torch.tensor([[0, 0, 0, -1], [-1, -1, -1, -1]])
    ids_BT, positions_BT = torch.tensor([[7, 3, 9, 0], [0, 0, 0, 0]]), torch.tensor([[0, 1, 2, 0], [0, 0, 0, 0]])
    padded = model(ids_BT=ids_BT, segments_BT=segments_BT, positions_BT=positions_BT, keys_B=None).routed
    alone = model(**one_document([7, 3, 9]), keys_B=None).routed
    for one, two in zip(padded, alone, strict=True):
        assert one.seen_X[:4].sum() == 3 * 2 and one.seen_X[4] == 3
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)


def test_the_cache_gives_what_whole_rows_give():
    model, ids = small(shared_experts=1, every=2), [7, 3, 9, 4, 8, 2]
    whole = model(**one_document(ids), keys_B=None).heads[0]
    cache = model.new_cache(2)
    first = model.extend(torch.tensor([ids[:4], [5, 0, 0, 0]]), torch.tensor([4, 1]), cache)
    second = model.extend(torch.tensor([ids[4:], [6, 0]]), torch.tensor([2, 1]), cache)
    torch.testing.assert_close(torch.cat([first[:1], second[:1]], dim=1), whole, rtol=1e-11, atol=1e-12)


def test_a_step_moves_the_bias_by_the_whole_steps_tokens_and_a_skipped_one_moves_nothing():
    model = small()
    seen_LX = torch.tensor([[5.0, 1, 1, 1, 4, 0], [2.0, 2, 2, 2, 4, 0]])
    model.after_step(seen_LX, applied=False)
    assert not any(bool(ff.router.nudges.any()) for ff in model.expert_layers)
    model.after_step(seen_LX, applied=True)
    assert [ff.router.nudges.tolist() for ff in model.expert_layers] == [[-1, 1, 1, 1], [0, 0, 0, 0]]


def test_without_a_bias_nothing_moves():
    model = MoeLm(MoeModel(**SMALL), 50, 12, bias_speed=0.0)
    model.after_step(torch.tensor([[5.0, 1, 1, 1, 4, 0]] * 2), applied=True)
    assert not any(bool(ff.router.nudges.any()) for ff in model.expert_layers)


def test_a_mask_that_nothing_reads_is_an_error():
    with pytest.raises(TypeError, match="attention_mask"):
        small()(**one_document([1, 2]), keys_B=None, attention_mask=torch.ones(1, 2))

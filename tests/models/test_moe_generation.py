"""Generation with the moe model: the cache, tokens that are taken back, and heads that draft as they were trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dstrain.config.moe import MoeModel
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.init import fill_initial

PIECES = ([5, 1, 3], [0, 4, 1], [1, 1, 1], [4, 0, 5], [6, 6, 2], [1, 2, 1])


def moe_of(further: str, next_tokens: int = 4, **settings) -> MoeLm:
    sizes = {"width": 16, "heads": 2, "layers": 2, "ff": 32, "experts": 4, "top_k": 2, "expert_ff": 12}
    model = MoeLm(MoeModel(**sizes | settings, next_tokens=next_tokens, further=further), 50, 24, 0.001)
    fill_initial(model, seed=1).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.mul_(1 + 0.3 * torch.arange(len(parameter)) / len(parameter))     # norms are not all one
            else:
                parameter.mul_(4.0)
    return model


def whole(model: MoeLm, ids_BS: Tensor) -> tuple[Tensor, ...]:
    """Each head's hidden states, as in training."""
    return model(ids_BT=ids_BS, segments_BT=torch.zeros_like(ids_BS), keys_B=None,
                 positions_BT=torch.arange(ids_BS.shape[1]).expand_as(ids_BS)).heads


def rows_of(seed: int = 0) -> Tensor:
    return torch.randint(0, 50, (3, 24), generator=torch.Generator().manual_seed(seed))


def piece_of(ids_BS: Tensor, done: list[int], lengths: list[int], filler: int = 49) -> Tensor:
    ids_BT = torch.full((len(done), max(lengths)), filler)
    for row, (start, length) in enumerate(zip(done, lengths)):
        ids_BT[row, :length] = ids_BS[row, start:start + length]
    return ids_BT


@pytest.mark.parametrize("settings", [{}, {"every": 2, "shared_experts": 1}, {"positions": "learned"}], ids=str)
def test_pieces_of_any_length_give_the_whole_rows_hidden_states(settings):
    model, ids_BS, done = moe_of("parallel", **settings), rows_of(), [0, 0, 0]
    expected, cache = whole(model, ids_BS)[0], model.new_cache(3)
    for lengths in PIECES:
        hidden_BTC = model.extend(piece_of(ids_BS, done, lengths), torch.tensor(lengths), cache)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(hidden_BTC[row, :length], expected[row, done[row]:done[row] + length], rtol=0,
                                       atol=1e-12)
            done[row] += length


@pytest.mark.parametrize("settings", [{}, {"positions": "learned"}], ids=str)
def test_tokens_that_are_taken_back_leave_no_trace(settings):
    model, ids_BS, others_BS, done = moe_of("parallel", **settings), rows_of(), rows_of(seed=7), [0, 0, 0]
    expected, cache = whole(model, ids_BS)[0], model.new_cache(3)
    for lengths in PIECES[:4]:
        wrong = [2, 0, 4]                                               # read first, refused, and written over
        model.extend(piece_of(others_BS, done, wrong), torch.tensor(wrong), cache)
        cache.take_back(torch.tensor(wrong))
        hidden_BTC = model.extend(piece_of(ids_BS, done, lengths), torch.tensor(lengths), cache)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(hidden_BTC[row, :length], expected[row, done[row]:done[row] + length], rtol=0,
                                       atol=1e-12)
            done[row] += length


@pytest.mark.parametrize("further, next_tokens", [("parallel", 2), ("parallel", 4), ("sequential", 2),
                                                  ("sequential", 3), ("sequential", 5)])
@pytest.mark.parametrize("settings", [{}, {"positions": "learned"}], ids=str)
@torch.no_grad()
def test_heads_draft_with_the_hidden_states_that_they_have_in_training(further, next_tokens, settings):
    """Where a draft is the token that is there in truth; after pieces of any length, and after wrong drafts."""
    model, ids_BS, done = moe_of(further, next_tokens, **settings), rows_of(), [0, 0, 0]
    expected, cache, drafter = whole(model, ids_BS), model.new_cache(3), model.new_drafter(3)
    known_BS = torch.cat([ids_BS, torch.zeros(3, next_tokens).long()], dim=1)
    compared = 0
    for number, lengths in enumerate(PIECES):
        x_BTC = model.trunk(piece_of(ids_BS, done, lengths), torch.tensor(lengths), cache)
        done = [start + length for start, length in zip(done, lengths)]
        drafted_BS, right = known_BS.clone(), number % 2 == 1
        for row, start in enumerate(done):
            drafted_BS[row, start + 1:] = 49                            # nobody knows these yet

        def pick(first: int, hidden_BHC: Tensor) -> None:
            nonlocal compared
            for head, hidden_BC in enumerate(hidden_BHC.unbind(1), start=first):
                for row, start in enumerate(done):
                    if right and lengths[row] and start + head < 24:
                        torch.testing.assert_close(hidden_BC[row], expected[head][row, start - 1], rtol=0, atol=1e-12)
                        compared += 1
                    drafted_BS[row, start + head] = known_BS[row, start + head] if right else 48

        drafter.draft(x_BTC, torch.tensor(lengths), drafted_BS, pick)
    assert compared > 4 * (next_tokens - 1)


def test_without_further_heads_the_model_generates_as_any_other():
    model = moe_of("parallel", next_tokens=1)
    ids_BS = rows_of()
    hidden_BTC = model.extend(ids_BS, torch.tensor([24, 24, 24]), model.new_cache(3))
    torch.testing.assert_close(hidden_BTC, whole(model, ids_BS)[0], rtol=0, atol=1e-12)

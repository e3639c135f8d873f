"""The mask law through the whole model, in training mode with dropout on: not one bit of what is scored changes.

Row 0: documents of 9 and 8 tokens and 7 of padding. Row 1: one document of 24. Scored: document 1 of row 0.
"""

from __future__ import annotations

import pytest
import torch
from lm_help import VARIANTS, packed, small_lm
from torch import Tensor

from dstrain.models.decoder_lm import DecoderLm
from dstrain.nn.chance import row_keys
from dstrain.nn.heads import summed_nll

ROW, DOCUMENT, PADDING = 0, slice(9, 17), slice(17, 24)
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def hidden_states(model: DecoderLm, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs, keys_B=row_keys(1, 1, torch.arange(len(inputs["ids_BT"])))).hidden_BTD


def scored_only(inputs: dict[str, Tensor]) -> Tensor:
    labels_BT = torch.full_like(inputs["ids_BT"], -100)
    labels_BT[ROW, DOCUMENT] = torch.arange(8)
    return labels_BT


def with_ids(inputs: dict[str, Tensor], row: int, place: slice) -> dict[str, Tensor]:
    """The same batch with every id in one place replaced."""
    ids_BT = inputs["ids_BT"].clone()
    ids_BT[row, place] = (ids_BT[row, place] + 17) % 50
    return inputs | {"ids_BT": ids_BT}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("row, place", [(0, PADDING), (0, slice(0, 9)), (1, slice(0, 24))],
                         ids=["padding", "the document before", "the other row"])
def test_what_stands_elsewhere_changes_no_bit_of_loss_or_gradient(settings: dict, dtype: torch.dtype, row, place):
    model, inputs = small_lm(dropout=0.1, dtype=dtype, **settings), packed([9, 8], [24])
    results = []
    for batch in (inputs, with_ids(inputs, row, place)):
        hidden_BTD = hidden_states(model, batch)
        nll = summed_nll(hidden_BTD, model.output_weight, scored_only(batch))
        results.append([hidden_BTD[ROW, DOCUMENT], nll, *torch.autograd.grad(nll, list(model.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_the_future_changes_no_bit_of_the_past(settings: dict, dtype: torch.dtype):
    model, inputs = small_lm(dropout=0.1, dtype=dtype, **settings), packed([9, 8], [24])
    before = hidden_states(model, inputs)
    after = hidden_states(model, with_ids(inputs, 1, slice(13, 24)))
    assert torch.equal(before[1, :13], after[1, :13])
    assert (before[1, 13:] != after[1, 13:]).any(-1).all()


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_logit_has_exactly_no_gradient_from_later_inputs_other_documents_or_padding(settings: dict):
    model, inputs = small_lm(dropout=0.1, **settings), packed([9, 8], [24])
    embedded: list[Tensor] = []
    model.embed.register_forward_hook(lambda module, args, output: embedded.append(output))
    hidden_BTD = hidden_states(model, inputs)
    for position in range(9, 17):
        gradient_BT = torch.autograd.grad(model.logits(hidden_BTD[ROW, position])[7], embedded[0],
                                          retain_graph=True)[0].abs().sum(-1)
        assert (gradient_BT[ROW, 9:position + 1] > 0).all()
        gradient_BT[ROW, 9:position + 1] = 0
        assert (gradient_BT == 0).all()


def test_ids_that_mean_something_elsewhere_are_attended_like_all_others():
    # End-of-text and padding share an id in GPT-2's vocabulary: here id 0 fills the padding and starts the document.
    model, inputs = small_lm(), packed([24])
    inputs["ids_BT"][0, :3] = 0
    embedded: list[Tensor] = []
    model.embed.register_forward_hook(lambda module, args, output: embedded.append(output))
    hidden_BTD = model(**inputs, keys_B=None).hidden_BTD
    gradient_BTC = torch.autograd.grad(hidden_BTD[0, 10, 3], embedded[0])[0]
    assert (gradient_BTC[0, :11].abs().sum(-1) > 0).all()

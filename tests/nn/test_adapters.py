"""Adapters change nothing until they are trained, and nothing else is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstrain.config.arc import ArcModel
from dstrain.config.schema import LmModel
from dstrain.models.decoder_lm import DecoderLm
from dstrain.models.grid_champion import GridChampion
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.adapters import AdaptedLinear, adapt, for_a_while, initial_adapter, is_adapter
from dstrain.nn.grid_ids import VOCABULARY
from dstrain.nn.init import fill_initial

SIZES = {"preset": None, "width": 16, "heads": 2, "ff": 32, "block": "gelu"}
IDS_BT = torch.tensor([[11, 3, 4, 10, 12], [11, 5, 10, 12, 0]])
LENGTHS_B = torch.tensor([5, 4])


def decoder():
    model = DecoderLm(LmModel(positions="rotary", layers=2, dropout=0.0, **SIZES), VOCABULARY, 16)
    return model, {"ids_BT": IDS_BT, "segments_BT": torch.zeros(2, 5, dtype=torch.long),
                   "positions_BT": torch.arange(5).expand(2, 5), "keys_B": None}


def seq2seq():
    settings = ArcModel(kind="encoder-decoder", encoder_layers=1, decoder_layers=2, **SIZES)
    return Seq2Seq(settings, VOCABULARY, VOCABULARY, True, 16), {
        "source_BS": IDS_BT, "source_lengths_B": LENGTHS_B, "ids_BT": IDS_BT, "lengths_B": LENGTHS_B, "keys_B": None}


def champion():
    settings = ArcModel(kind="champion", encoder_layers=1, decoder_layers=2, **SIZES | {"width": 32})
    return GridChampion(settings, VOCABULARY, 64), {
        "context_BX": torch.tensor([[3, 10, 12, 4, 10, 12], [5, 10, 12, 6, 10, 12]]),
        "context_lengths_BG": torch.tensor([[3, 3], [3, 3]]),
        "source_BS": torch.tensor([[3, 10, 12], [5, 10, 12]]), "source_lengths_B": torch.tensor([3, 3]),
        "ids_BT": torch.tensor([[11, 4, 10], [11, 6, 10]]), "lengths_B": torch.tensor([3, 3]), "keys_B": None}


MODELS = pytest.mark.parametrize("made", [decoder, seq2seq, champion])


def bits_of_logits(model, inputs):
    return model.logits(model(**inputs)[0]).view(torch.int32)


def filled(made):
    model, inputs = made()
    return fill_initial(model, seed=1).eval(), inputs


@MODELS
def test_an_adapted_model_is_the_base_model_to_the_bit(made):
    model, inputs = filled(made)
    expected = bits_of_logits(model, inputs)
    with for_a_while(model, 4, seed=1) as trained:
        assert torch.equal(bits_of_logits(model, inputs), expected)
        with torch.no_grad():
            trained[1] += 0.1  # the first layer's second matrix
        assert not torch.equal(bits_of_logits(model, inputs), expected)


@MODELS
def test_every_linear_layer_has_one_and_base_names_stay(made):
    model, _ = filled(made)
    before = {name: parameter for name, parameter in model.named_parameters()}
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    trained = adapt(model, 4)
    after = dict(model.named_parameters())
    assert {name for name in after if is_adapter(name)} == {f"{layer}.adapter_{which}" for layer in layers
                                                            for which in ("down", "up")}
    assert len(trained) == 2 * len(layers) > 8
    assert all(after[name] is parameter for name, parameter in before.items())
    assert {name for name, parameter in after.items() if parameter.requires_grad} == set(after) - set(before)
    assert {id(parameter) for parameter in trained} == {id(after[name]) for name in set(after) - set(before)}
    with pytest.raises(ValueError, match="has an adapter already"):
        adapt(model, 4)


def test_the_output_is_the_layer_s_and_a_product_of_two_small_matrices():
    layer = nn.Linear(6, 5)
    adapted = AdaptedLinear(layer, 2)
    with torch.no_grad():
        adapted.adapter_down.normal_(generator=torch.Generator().manual_seed(1))
        adapted.adapter_up.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    weight = layer.weight + 16 / 2 * adapted.adapter_up @ adapted.adapter_down
    assert torch.allclose(adapted(x), x @ weight.T + layer.bias, atol=1e-5)


def test_gradients_are_those_of_one_merged_weight():
    """Of `up` scale * G down^T and of `down` scale * up^T G, where G is the gradient of the whole weight."""
    layer = nn.Linear(6, 5).double()
    adapted = AdaptedLinear(layer, 2)
    for number, matrix in enumerate((adapted.adapter_down, adapted.adapter_up)):
        matrix.data = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    merged = (layer.weight + 8 * adapted.adapter_up @ adapted.adapter_down).detach().requires_grad_()
    (x @ merged.T + layer.bias.detach()).square().sum().backward()
    adapted(x).square().sum().backward()
    assert torch.allclose(adapted.adapter_up.grad, 8 * merged.grad @ adapted.adapter_down.T)
    assert torch.allclose(adapted.adapter_down.grad, 8 * adapted.adapter_up.T @ merged.grad)


def test_first_values_depend_on_name_and_seed_alone():
    down = initial_adapter("blocks.0.ff.up.adapter_down", (8, 1024), seed=1)
    assert torch.equal(down, initial_adapter("blocks.0.ff.up.adapter_down", (8, 1024), seed=1))
    assert not torch.equal(down, initial_adapter("blocks.1.ff.up.adapter_down", (8, 1024), seed=1))
    assert not torch.equal(down, initial_adapter("blocks.0.ff.up.adapter_down", (8, 1024), seed=2))
    assert abs(float(down.std()) * 32 - 1) < 0.05
    assert not initial_adapter("blocks.0.ff.up.adapter_up", (64, 8), seed=1).any()


@pytest.mark.parametrize("fails", [False, True])
def test_for_a_while_leaves_the_model_as_it_was(fails):
    model, inputs = filled(seq2seq)
    model.encoder[0].ff.up.eval()
    model.decoder.train()
    model.embed.weight.requires_grad_(False)
    before = [(name, module, module.training) for name, module in model.named_modules()]
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    values = {name: parameter.clone() for name, parameter in model.named_parameters()}
    try:
        with for_a_while(model, 2, seed=1) as trained:
            for parameter in trained:
                parameter.data.add_(1.0)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [(name, module, module.training) for name, module in model.named_modules()] == before
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(torch.equal(parameter, values[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("model, rank, said", [(nn.Linear(2, 2), 0, "adapts nothing"),
                                               (nn.Embedding(2, 2), 1, "no linear layer")])
def test_what_cannot_be_adapted_is_refused(model, rank, said):
    with pytest.raises(ValueError, match=said):
        adapt(model, rank)

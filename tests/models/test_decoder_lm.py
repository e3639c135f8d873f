"""The decoder: its size, its first loss, its names, its positions, its dropout, its precision."""

from __future__ import annotations

import math

import pytest
import torch
from lm_help import VARIANTS, packed, small_lm

from dstrain.config.schema import LmModel
from dstrain.models.decoder_lm import DecoderLm
from dstrain.nn.chance import row_keys
from dstrain.nn.heads import summed_nll
from dstrain.nn.init import fill_initial


@pytest.mark.parametrize("width, heads, layers, ff, count", [
    (256, 4, 4, 1024, 16_025_344), (512, 8, 6, 2048, 44_646_912), (768, 12, 12, 3072, 123_653_376)])
def test_the_presets_count_16_45_and_124_million_parameters(width, heads, layers, ff, count):
    with torch.device("meta"):
        model = DecoderLm(LmModel(width=width, heads=heads, layers=layers, ff=ff), 50_257, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    # By hand, tiny: 50,257 * 256 + 4 * (4 * (256^2 + 256) + 256 * 1024 * 2 + 1024 + 256 + 2 * 512) + 512


@pytest.mark.parametrize("vocab_size, settings", [
    (257, {}), (257, {"block": "swiglu"}), (257, {"positions": "learned"}), (257, {"positions": "sinusoidal"}),
    (50_257, {})])
def test_the_first_loss_is_ln_of_the_vocabulary(vocab_size: int, settings: dict):
    shape = {"width": 256, "heads": 4, "layers": 4, "ff": 1024} | settings
    model = fill_initial(DecoderLm(LmModel(**shape), vocab_size, 64), seed=1)
    inputs = packed([64], [30, 34], length=64, vocab_size=vocab_size)
    labels = torch.randint(0, vocab_size, (2, 64), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        hidden = model(**inputs, keys_B=None).hidden_BTD
        loss = summed_nll(hidden, model.output_weight, labels).item() / 128
    assert loss == pytest.approx(math.log(vocab_size), rel=0.03)        # 5.549; 10.825


def test_initial_values_by_name():
    model = DecoderLm(LmModel(width=64, heads=2, layers=8, ff=256), 300, 64)
    fill_initial(model, seed=3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            expected = 0.02 / 4 if name.endswith(("attention.out.weight", "ff.down.weight")) else 0.02   # sqrt(2 * 8)
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
        assert torch.equal(parameter, model.initial(name, parameter.shape, 3)), name


@pytest.mark.parametrize("block, norms", [("gelu", 5), ("swiglu", 5)])
def test_norms_and_biases_are_not_decayed_and_all_matrices_are(block: str, norms: int):
    model = small_lm(block=block, positions="learned")
    for name, parameter in model.named_parameters():
        assert model.no_decay(name) == (parameter.ndim == 1), name
    assert sum("norm" in name and name.endswith("weight") for name, _ in model.named_parameters()) == norms
    assert any(name.endswith("bias") for name, _ in model.named_parameters()) == (block == "gelu")


@pytest.mark.parametrize("settings", VARIANTS)
def test_every_parameter_gets_a_gradient(settings: dict):
    model = small_lm(dropout=0.1, **settings)
    inputs = packed([10, 14], [24])
    hidden = model(**inputs, keys_B=row_keys(1, 1, torch.arange(2))).hidden_BTD
    summed_nll(hidden, model.output_weight, inputs["ids_BT"].roll(-1, 1)).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


def test_an_argument_that_nothing_reads_is_an_error():
    with pytest.raises(TypeError, match="attention_mask"):
        small_lm()(**packed([5]), keys_B=None, attention_mask=torch.ones(1, 24))
    with pytest.raises(TypeError):
        inputs = packed([5])
        del inputs["segments_BT"]
        small_lm()(**inputs, keys_B=None)


def test_a_row_beyond_the_length_is_refused():
    with pytest.raises(ValueError, match="25 tokens does not fit this model's length 24"):
        small_lm()(**packed([25], length=25), keys_B=None)


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_document_gives_the_same_hidden_states_packed_or_alone(settings: dict):
    model = small_lm(**settings)
    together = packed([9, 8, 3])
    alone = {name: tensor[:, 9:17] for name, tensor in together.items()}
    difference = (model(**together, keys_B=None).hidden_BTD[:, 9:17] - model(**alone, keys_B=None).hidden_BTD).abs()
    assert difference.max() < 1e-12


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal"])
def test_positions_matter(positions: str):
    model = small_lm(positions=positions, layers=1)     # where, without positions, earlier tokens are a mere set
    inputs = packed([24])
    hidden = model(**inputs, keys_B=None).hidden_BTD
    swapped = inputs | {"ids_BT": inputs["ids_BT"][:, [1, 0, *range(2, 24)]]}
    assert (hidden[:, 2:] - model(**swapped, keys_B=None).hidden_BTD[:, 2:]).abs().max() > 1e-3


def test_a_document_that_starts_beyond_512_positions_is_finite_and_right():
    # SDPA walks keys in blocks of 512: for these queries the first block is masked as a whole.
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        model = small_lm(length=1200, dtype=dtype)
        inputs = packed([700, 450], length=1200)
        hidden = model(**inputs, keys_B=None).hidden_BTD
        alone = {name: tensor[:, 700:1150] for name, tensor in inputs.items()}
        assert hidden.isfinite().all()
        assert (hidden[:, 700:1150] - model(**alone, keys_B=None).hidden_BTD).abs().max() < tolerance
        gradients = torch.autograd.grad(hidden.double().square().sum(), list(model.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("block", ["gelu", "swiglu"])
def test_activation_checkpointing_changes_no_gradient_with_dropout_on(block: str):
    gradients = []
    for checkpoint_activations in (False, True):
        model = small_lm(dropout=0.3, block=block, checkpoint_activations=checkpoint_activations)
        torch.manual_seed(len(gradients))                               # a generator's state plays no part
        hidden = model(**packed([9, 8], [24]), keys_B=row_keys(1, 1, torch.arange(2))).hidden_BTD
        gradients.append(torch.autograd.grad(hidden.square().sum(), list(model.parameters())))
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_activation_checkpointing_saves_memory():
    def saved_bytes(checkpoint_activations: bool) -> int:
        sizes: list[int] = []
        model = small_lm(layers=4, checkpoint_activations=checkpoint_activations)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel() * t.element_size()), t)[1],
                                                      lambda t: t):
            model(**packed([24], [24]), keys_B=None)
        return sum(sizes)

    assert saved_bytes(True) < 0.3 * saved_bytes(False)


def test_dropout_sites_are_named_within_the_model_and_all_differ():
    model = small_lm(dropout=0.1)
    sites = {name: module.site for name, module in model.named_modules() if hasattr(module, "site")}
    assert sorted(sites) == ["blocks.0.attention_dropout", "blocks.0.ff_dropout", "blocks.1.attention_dropout",
                             "blocks.1.ff_dropout", "embed_dropout"]
    assert len(set(sites.values())) == 5
    wrapped = torch.nn.ModuleDict({"module": model})
    assert {name.removeprefix("module."): module.site for name, module in wrapped.named_modules()
            if hasattr(module, "site")} == sites


def test_dropout_in_training_needs_keys_and_changes_with_the_step():
    model, inputs = small_lm(dropout=0.1), packed([24])
    with pytest.raises(ValueError, match="needs keys_B"):
        model(**inputs, keys_B=None)
    outputs = [model(**inputs, keys_B=row_keys(1, step, torch.arange(1))).hidden_BTD for step in (1, 2, 1)]
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])
    model.eval()
    assert torch.equal(model(**inputs, keys_B=None).hidden_BTD,
                       model(**inputs, keys_B=row_keys(1, 1, torch.arange(1))).hidden_BTD)


def test_gradients_do_not_depend_on_the_micro_batch_with_dropout_on():
    inputs, keys_B = packed([9, 8], [24], [3], [20, 4]), row_keys(1, 5, torch.arange(4))
    labels = inputs["ids_BT"].roll(-1, 1).masked_fill(inputs["segments_BT"] < 0, -100)

    def gradients(micro_rows: int) -> torch.Tensor:
        model = small_lm(dropout=0.2)
        for start in range(0, 4, micro_rows):
            part = slice(start, start + micro_rows)
            hidden = model(**{name: tensor[part] for name, tensor in inputs.items()}, keys_B=keys_B[part]).hidden_BTD
            summed_nll(hidden, model.output_weight, labels[part]).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    whole = gradients(4)
    for micro_rows in (1, 2, 3):
        assert ((gradients(micro_rows) - whole).norm() / whole.norm()).item() < 1e-12


def test_bf16_and_float64_copies_keep_no_rounded_positions():
    model = small_lm(length=2000, dtype=torch.float32)
    assert [name for name, _ in model.named_buffers()] == []
    inputs = packed([2000], length=2000)
    exact = small_lm(length=2000)(**inputs, keys_B=None).hidden_BTD
    # Within bf16's own noise, late positions no worse than early ones: angles of bf16 would be off by whole turns.
    error = (model.to(torch.bfloat16)(**inputs, keys_B=None).hidden_BTD - exact).square().mean(-1).sqrt()[0]
    assert error[1900:].mean() < 2 * error[:100].mean() < 0.2


def test_gpt2_and_llama_weights_are_plain_reshapes():
    # The third of qkv and the halves of gate_up are where an export takes them from.
    model = small_lm(block="swiglu", layers=1)
    block = model.blocks[0]
    x = torch.randn(1, 1, 16, dtype=torch.float64)
    q, k, v = block.attention.qkv.weight.split(16)
    torch.testing.assert_close(block.attention.qkv(x), torch.cat([x @ q.T, x @ k.T, x @ v.T], -1))
    gate, up = block.ff.gate_up.weight.split(32)
    expected = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ block.ff.down.weight.T
    torch.testing.assert_close(block.ff(x), expected)

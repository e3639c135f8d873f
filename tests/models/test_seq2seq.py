"""The encoder-decoder: its size, its first loss, its names, its vocabularies, its dropout."""

from __future__ import annotations

import math

import pytest
import torch
from seq2seq_help import VARIANTS, labels_of, pairs, small_seq2seq

from dstrain.config.translate import TranslateModel
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.chance import row_keys
from dstrain.nn.heads import summed_nll
from dstrain.nn.init import fill_initial

TINY = {"width": 128, "heads": 4, "encoder_layers": 4, "decoder_layers": 4, "ff": 256}
SMALL = {"width": 256, "heads": 4, "encoder_layers": 4, "decoder_layers": 4, "ff": 1024}
BASE = {"width": 512, "heads": 8, "encoder_layers": 6, "decoder_layers": 6, "ff": 2048}


@pytest.mark.parametrize("sizes, shared, count", [
    (TINY, True, 2_374_144), (TINY, False, 3_422_720), (SMALL, True, 9_470_976), (BASE, True, 48_334_848)])
def test_the_presets_count_2_9_and_48_million_parameters_with_8192_shared_ids(sizes: dict, shared: bool, count: int):
    with torch.device("meta"):
        model = Seq2Seq(TranslateModel(**sizes), 8192, 8192, shared, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    # By hand, tiny: 8,192 * 128 of the embedding; a norm 2 * 128 = 256, an attention 4 * (128^2 + 128) = 66,048, a
    # feed-forward 2 * 128 * 256 + 256 + 128 = 65,920; encoder 4 * (132,480) + 256, decoder 4 * (198,784) + 256.


@pytest.mark.parametrize("vocab, settings", [
    (257, {}), (257, {"block": "swiglu"}), (257, {"positions": "learned"}), (257, {"positions": "sinusoidal"}),
    (8192, {})])
def test_the_first_loss_is_ln_of_the_vocabulary(vocab: int, settings: dict):
    model = fill_initial(Seq2Seq(TranslateModel(**TINY | settings), vocab, vocab, True, 64), seed=1).eval()
    inputs = pairs([9, 4] * 16, [11, 6] * 16)
    labels_BT = torch.randint(0, vocab, (32, 11), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        hidden_BTD = model(**inputs, keys_B=None).hidden_BTD
        loss = summed_nll(hidden_BTD, model.output_weight, labels_BT).item() / labels_BT.numel()
    assert loss == pytest.approx(math.log(vocab), rel=0.03)             # 5.549; 9.011


def test_initial_values_by_name():
    model = Seq2Seq(TranslateModel(**TINY | {"ff": 512, "decoder_layers": 3}), 600, 500, False, 64)
    fill_initial(model, seed=3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            outputs = {"encoder": 4 * 2, "decoder": 3 * 3}.get(name.split(".")[0])
            ends = name.endswith((".out.weight", "ff.down.weight"))
            expected = 0.02 if "embed" in name else (parameter.shape[1] * (outputs if ends else 1)) ** -0.5
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
        assert torch.equal(parameter, model.initial(name, parameter.shape, 3)), name


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_norms_and_biases_are_not_decayed_and_all_matrices_are(settings: dict):
    model = small_seq2seq(**settings)
    for name, parameter in model.named_parameters():
        assert model.no_decay(name) == (parameter.ndim == 1), name
    assert sum("norm" in name and name.endswith("weight") for name, _ in model.named_parameters()) == 2 * 2 + 2 * 3 + 2


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_muons_matrices_are_those_inside_the_blocks_and_nothing_else(settings: dict):
    model = small_seq2seq(**settings)
    hidden = model.hidden_matrices()
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    assert hidden.keys() == {name for name in matrices if name.startswith(("encoder.", "decoder."))}
    assert all("embed" in name for name in matrices - hidden.keys())
    counts = {name.removeprefix("decoder.1."): count for name, count in hidden.items() if name.startswith("decoder.1.")}
    up = {"ff.gate_up.weight": 2} if settings.get("block") == "swiglu" else {"ff.up.weight": 1}
    assert counts == {"attention.qkv.weight": 3, "attention.out.weight": 1, "cross_attention.q.weight": 1,
                      "cross_attention.kv.weight": 2, "cross_attention.out.weight": 1, "ff.down.weight": 1, **up}


def test_one_vocabulary_is_one_embedding_and_two_are_two_with_the_targets_tied_to_the_output():
    one, two = small_seq2seq(shared=True), small_seq2seq(shared=False)
    names = {name for name, _ in one.named_parameters()}
    assert {name for name, _ in two.named_parameters()} == names | {"source_embed.weight"}
    assert two.source_embed.weight.shape == (40, 16) and two.embed.weight.shape == (50, 16)
    inputs = pairs([9], [11])
    for model in (one, two):
        assert model.output_weight is model.embed.weight
        logits_BTV = model.logits(model(**inputs, keys_B=None).hidden_BTD)
        torch.testing.assert_close(logits_BTV, model(**inputs, keys_B=None).hidden_BTD @ model.embed.weight.T)
    with pytest.raises(ValueError, match="one size, not 40 and 50"):
        Seq2Seq(TranslateModel(**TINY), 40, 50, True, 24)


def test_separate_embeddings_are_each_its_own_sides():
    model, inputs = small_seq2seq(shared=False), pairs([9], [11])
    before = model(**inputs, keys_B=None).hidden_BTD
    with torch.no_grad():
        model.source_embed.weight[inputs["source_BS"][0, 2]] += 1.0
    assert (model(**inputs, keys_B=None).hidden_BTD != before).any(-1).all()
    assert inputs["source_BS"].max() < 40                               # a source's id never indexes the target's


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_parameter_gets_a_gradient(settings: dict):
    model, inputs = small_seq2seq(dropout=0.1, **settings), pairs([9, 3], [11, 5])
    hidden_BTD = model(**inputs, keys_B=row_keys(1, 1, torch.arange(2))).hidden_BTD
    summed_nll(hidden_BTD, model.output_weight, labels_of(inputs)).backward()
    assert [name for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.any()] == []


def test_an_argument_that_nothing_reads_or_that_is_missing_is_an_error():
    inputs = pairs([9], [11])
    with pytest.raises(TypeError, match="attention_mask"):
        small_seq2seq()(**inputs, keys_B=None, attention_mask=torch.ones(1, 9))
    for name in inputs:
        with pytest.raises(TypeError, match=name):
            small_seq2seq()(**{other: tensor for other, tensor in inputs.items() if other != name}, keys_B=None)


def test_a_source_or_a_target_beyond_the_length_is_refused():
    with pytest.raises(ValueError, match="source of 25 tokens does not fit this model's length 24"):
        small_seq2seq()(**pairs([25], [3], slots=(25, 3)), keys_B=None)
    with pytest.raises(ValueError, match="target of 25 tokens does not fit this model's length 24"):
        small_seq2seq()(**pairs([3], [25], slots=(3, 25)), keys_B=None)


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal"])
@pytest.mark.parametrize("side", ["source_BS", "ids_BT"])
def test_positions_matter_on_both_sides(positions: str, side: str):
    # One layer, where without positions earlier tokens are a mere set.
    model, inputs = small_seq2seq(positions=positions, encoder_layers=1, decoder_layers=1), pairs([9], [11])
    swapped_ids = inputs[side].clone()
    swapped_ids[:, [0, 1]] = inputs[side][:, [1, 0]]
    assert not torch.equal(swapped_ids, inputs[side])
    before = model(**inputs, keys_B=None).hidden_BTD[:, 2:]
    assert (model(**inputs | {side: swapped_ids}, keys_B=None).hidden_BTD[:, 2:] - before).abs().max() > 1e-4


def test_dropout_sites_are_named_within_the_model_and_all_differ():
    model = small_seq2seq(dropout=0.1)
    sites = {name: module.site for name, module in model.named_modules() if hasattr(module, "site")}
    encoder = [f"encoder.{number}.{part}_dropout" for number in (0, 1) for part in ("attention", "ff")]
    decoder = [f"decoder.{number}.{part}_dropout" for number in (0, 1) for part in ("attention", "cross", "ff")]
    assert sorted(sites) == sorted([*encoder, *decoder, "embed_dropout", "source_embed_dropout"])
    assert len(set(sites.values())) == 12


def test_every_dropout_site_drops_in_training_and_none_in_eval():
    model, inputs = small_seq2seq(dropout=0.3), pairs([9], [11])
    seen: dict[str, bool] = {}
    for name, module in model.named_modules():
        if hasattr(module, "site"):
            module.register_forward_hook(
                lambda module, args, output, name=name: seen.update({name: bool((output == 0).any())}))
    model(**inputs, keys_B=row_keys(1, 1, torch.arange(1)))
    assert len(seen) == 12 and all(seen.values())
    model.eval()(**inputs, keys_B=row_keys(1, 1, torch.arange(1)))
    assert not any(seen.values())
    with pytest.raises(ValueError, match="needs keys_B"):
        model.train()(**inputs, keys_B=None)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_gradients_do_not_depend_on_the_micro_batch_or_its_padding_with_dropout_on(settings: dict):
    # Dropout is keyed by global row and position: a row has its own wherever it is computed.
    inputs, keys_B = pairs([9, 2, 5, 7], [4, 11, 1, 6]), row_keys(1, 5, torch.tensor([17, 4, 9, 30]))
    labels_BT = labels_of(inputs)

    def gradients(micro_batches: list[list[int]]) -> torch.Tensor:
        model = small_seq2seq(dropout=0.2, **settings)
        for rows in micro_batches:
            part = {name: tensor[rows] for name, tensor in inputs.items()}
            longest, source = int(part["lengths_B"].max()), int(part["source_lengths_B"].max())
            part["ids_BT"], part["source_BS"] = part["ids_BT"][:, :longest], part["source_BS"][:, :source]
            hidden_BTD = model(**part, keys_B=keys_B[rows]).hidden_BTD
            summed_nll(hidden_BTD, model.output_weight, labels_BT[rows, :longest]).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    whole = gradients([[0, 1, 2, 3]])
    for micro_batches in ([[0], [1], [2], [3]], [[3, 1], [0, 2]], [[2, 0, 3], [1]]):
        assert ((gradients(micro_batches) - whole).norm() / whole.norm()).item() < 1e-12


@pytest.mark.parametrize("block", ["gelu", "swiglu"])
def test_activation_checkpointing_changes_no_gradient_with_dropout_on(block: str):
    gradients = []
    for checkpoint_activations in (False, True):
        model = small_seq2seq(dropout=0.3, block=block, checkpoint_activations=checkpoint_activations)
        torch.manual_seed(len(gradients))                               # a generator's state plays no part
        hidden_BTD = model(**pairs([9, 3], [11, 5]), keys_B=row_keys(1, 1, torch.arange(2))).hidden_BTD
        gradients.append(torch.autograd.grad(hidden_BTD.square().sum(), list(model.parameters())))
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_activation_checkpointing_saves_memory_on_both_sides():
    def saved_bytes(checkpoint_activations: bool) -> int:
        sizes: list[int] = []
        model = small_seq2seq(encoder_layers=4, decoder_layers=4, checkpoint_activations=checkpoint_activations)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel() * t.element_size()), t)[1],
                                                      lambda t: t):
            model(**pairs([24, 24], [24, 24], slots=(24, 24)), keys_B=None)
        return sum(sizes)

    assert saved_bytes(True) < 0.3 * saved_bytes(False)


def test_no_buffer_could_be_rounded():
    assert [name for name, _ in small_seq2seq().named_buffers()] == []

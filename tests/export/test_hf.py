"""An exported model is the same function in transformers: logits, greedy continuation, tokenizer; all or nothing."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from export_help import bytes_tokenizer, our_logits, random_model, recipe_for, write_checkpoint
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dstrain.config.errors import Trouble, UserError
from dstrain.export import architectures, hf
from dstrain.export.hf import export_hf
from dstrain.infer.sampling import generate
from dstrain.nn import transformer

KINDS = [("gelu", "learned", "GPT2LMHeadModel"), ("gelu", "sinusoidal", "GPT2LMHeadModel"),
         ("gelu", "rotary", "GPTNeoXForCausalLM"), ("swiglu", "rotary", "LlamaForCausalLM")]
EXACT_ANGLES = 10_000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "+".join(kind[:2]))
def pair(request, tmp_path_factory):
    """(our model, theirs, the folder, the name of their class)"""
    block, positions, name = request.param
    recipe, tokenizer, place = recipe_for(block, positions), bytes_tokenizer(), tmp_path_factory.mktemp("export")
    ours = random_model(recipe, tokenizer)
    export_hf(write_checkpoint(place / "checkpoint", recipe, tokenizer, ours), place / "hf", print)
    return ours, AutoModelForCausalLM.from_pretrained(place / "hf").eval(), place / "hf", name


def ids_of_whole_rows() -> torch.Tensor:
    return torch.randint(0, 257, (3, 64), generator=torch.Generator().manual_seed(3))


def test_every_weight_finds_its_place_and_the_output_is_tied(pair):
    ours, theirs, folder, name = pair
    assert type(theirs).__name__ == name and theirs.dtype == torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)[1]
    assert not any(loaded[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    table = ours.settings.positions == "sinusoidal"
    assert theirs.num_parameters() == sum(p.numel() for p in ours.parameters()) + table * 64 * 48


def test_logits_are_the_same_in_float32(pair):
    ours, theirs, _, _ = pair
    ids = ids_of_whole_rows()
    with torch.no_grad():
        one, other = our_logits(ours, ids), theirs(ids).logits
    assert float(one.std()) > 1.0
    assert float((one - other).abs().max()) < 1e-5 * float(one.abs().max())


def test_logits_are_the_same_in_float64(pair, monkeypatch):
    """Where transformers computes in float32 whatever the model's type (rotary angles, Llama's norm), it is given the
    same computation in float64; our sinusoids are rounded as the exported table is."""
    ours, theirs, folder, _ = pair
    ours = copy.deepcopy(ours).double()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    for module_name, module in list(theirs.named_modules()):
        if module_name.endswith("rotary_emb"):
            theirs.set_submodule(module_name, Turns())
        elif type(module).__name__ == "LlamaRMSNorm":
            exact = torch.nn.RMSNorm(48, eps=module.variance_epsilon, dtype=torch.float64)
            exact.load_state_dict(module.state_dict())
            theirs.set_submodule(module_name, exact)
    monkeypatch.setattr(transformer, "sinusoidal_positions", lambda positions, width, dtype: (
        architectures.sinusoidal_positions(positions, width, torch.float32).to(dtype)))
    ids = ids_of_whole_rows()
    with torch.no_grad():
        one, other = our_logits(ours, ids), theirs(ids).logits
    assert one.dtype == other.dtype == torch.float64
    assert float((one - other).abs().max()) < 1e-12 * float(one.abs().max())


def test_the_greedy_continuation_is_the_same_token_by_token(pair):
    ours, theirs, folder, _ = pair
    tokenizer, written = AutoTokenizer.from_pretrained(folder), 0
    for prompt in ("", "1, 2, 3", "def f(x):", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"):
        mine, = generate(ours, bytes_tokenizer(), [prompt], max_new_tokens=40)
        given = tokenizer(prompt, return_tensors="pt")
        assert given.input_ids[0, 0] == 256  # end-of-text begins a document
        out = theirs.generate(**given, max_new_tokens=40)[0, given.input_ids.shape[1]:].tolist()
        assert out == mine.ids + [256] * (mine.stopped == "eot")
        written += len(mine.ids)
    assert written > 40


def test_swiglu_without_rotary_positions_is_refused_with_the_reason(tmp_path):
    for positions in ("learned", "sinusoidal"):
        recipe, tokenizer = recipe_for("swiglu", positions), bytes_tokenizer()
        checkpoint = write_checkpoint(tmp_path / positions, recipe, tokenizer, random_model(recipe, tokenizer))
        with pytest.raises(UserError, match=f"block=swiglu with model.positions={positions} has no exact counterpart"):
            export_hf(checkpoint, tmp_path / "out", print)
        assert not (tmp_path / "out").exists()


@pytest.fixture
def checkpoint(tmp_path):
    recipe, tokenizer = recipe_for("gelu", "rotary"), bytes_tokenizer()
    return write_checkpoint(tmp_path / "checkpoint", recipe, tokenizer, random_model(recipe, tokenizer))


def test_what_is_there_is_not_overwritten(tmp_path, checkpoint):
    out = tmp_path / "out"
    out.mkdir()
    export_hf(checkpoint, out, print)  # an empty folder is nothing
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before.keys() == {"config.json", "generation_config.json", "model.safetensors", "README.md",
                             "tokenizer.json", "tokenizer_config.json"}
    with pytest.raises(UserError, match="there is something already, and it is not overwritten"):
        export_hf(checkpoint, out, print)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_leaves_nothing_behind(tmp_path, checkpoint, monkeypatch):
    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(hf, "write_safetensors", full)
    with pytest.raises(Trouble, match="model.safetensors: No space left on device; make room or choose another --out"):
        export_hf(checkpoint, tmp_path / "place" / "out", print)
    assert list((tmp_path / "place").iterdir()) == []


def test_the_eos_and_the_dtype_are_said_and_the_file_is_plain_safetensors(pair):
    _, _, folder, _ = pair
    config = json.loads((folder / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["vocab_size"]) == (256, 256, 257)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 256
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert "end-of-text (id 256)" in (folder / "README.md").read_text()


class Turns(torch.nn.Module):
    """What a rotary embedding of transformers gives, in float64."""

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, **_) -> tuple[torch.Tensor, torch.Tensor]:
        half = position_ids[..., None].double() * EXACT_ANGLES
        angles = torch.cat([half, half], dim=-1)
        return angles.cos(), angles.sin()

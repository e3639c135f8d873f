"""Which architecture of Hugging Face computes exactly what an `lm` model does, and how its weights are called there.

    gelu, learned positions     GPT-2
    gelu, sinusoidal positions  GPT-2 with the sinusoids written out as its learned positions
    gelu, rotary positions      GPT-NeoX, its two halves of a block one after the other
    swiglu, rotary positions    Llama

Shapes: C channels, H heads, D channels of a head, V vocabulary, T positions.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.nn.layers import NORM_EPS
from dstrain.nn.positions import BASE
from dstrain.nn.transformer import sinusoidal_positions

WeightOf = Callable[[str], Tensor]


class Exported(NamedTuple):
    """A model as transformers reads it."""

    config: dict[str, Any]
    """config.json, without the ids of special tokens"""
    tensors: dict[str, Tensor]
    """model.safetensors: views where a view is enough"""


def exported(recipe: Recipe, vocab_size: int, weight_of: WeightOf) -> Exported:
    refuse_unknown(recipe)
    return ARCHITECTURES[recipe.model.block, recipe.model.positions](recipe, vocab_size, weight_of)


def refuse_unknown(recipe: Recipe) -> None:
    """A UserError where transformers has no model that computes the same."""
    if recipe.family != "lm":
        raise UserError(f"family {recipe.family} has no counterpart in transformers that dstrain knows, so it cannot "
                        f"be exported; models of the family lm can")
    if recipe.model.code is not None:
        raise UserError(f"model.code is {recipe.model.code}: a class of one's own has no counterpart in transformers "
                        f"that dstrain knows, so it cannot be exported")
    kind = (recipe.model.block, recipe.model.positions)
    if kind not in ARCHITECTURES:
        known = ", ".join(" with ".join(kind) for kind in ARCHITECTURES)
        raise UserError(f"model.block={kind[0]} with model.positions={kind[1]} has no exact counterpart in "
                        f"transformers (Llama, the one with SwiGLU, knows rotary positions alone), so it cannot be "
                        f"exported; there is one for {known}")


def gpt2(recipe: Recipe, vocab_size: int, weight_of: WeightOf) -> Exported:
    """Its linear layers keep their matrices transposed."""
    model = recipe.model
    tensors = {"transformer.wte.weight": weight_of("embed.weight"),
               "transformer.wpe.weight": _position_table(recipe, weight_of)}
    for number in range(model.layers):
        ours, theirs = f"blocks.{number}", f"transformer.h.{number}"
        for our_name, their_name in (("attention.qkv", "attn.c_attn"), ("attention.out", "attn.c_proj"),
                                     ("ff.up", "mlp.c_fc"), ("ff.down", "mlp.c_proj")):
            tensors[f"{theirs}.{their_name}.weight"] = weight_of(f"{ours}.{our_name}.weight").T
            tensors[f"{theirs}.{their_name}.bias"] = weight_of(f"{ours}.{our_name}.bias")
        tensors |= _layer_norm(weight_of, f"{ours}.attention_norm", f"{theirs}.ln_1")
        tensors |= _layer_norm(weight_of, f"{ours}.ff_norm", f"{theirs}.ln_2")
    tensors |= _layer_norm(weight_of, "norm", "transformer.ln_f")
    return Exported({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocab_size,
        "n_positions": recipe.batch.length, "n_embd": model.width, "n_layer": model.layers, "n_head": model.heads,
        "n_inner": model.ff, "activation_function": "gelu_new", "layer_norm_epsilon": NORM_EPS,
        "scale_attn_weights": True, "embd_pdrop": model.dropout, "resid_pdrop": model.dropout, "attn_pdrop": 0.0,
        "tie_word_embeddings": True}, tensors)


def gpt_neox(recipe: Recipe, vocab_size: int, weight_of: WeightOf) -> Exported:
    """Its query, key and value stand together head by head; ours are thirds of all heads."""
    model = recipe.model
    heads, width = model.heads, model.width
    tensors = {"gpt_neox.embed_in.weight": weight_of("embed.weight")}
    for number in range(model.layers):
        ours, theirs = f"blocks.{number}", f"gpt_neox.layers.{number}"
        qkv_3HDC = weight_of(f"{ours}.attention.qkv.weight").view(3, heads, width // heads, width)
        bias_3HD = weight_of(f"{ours}.attention.qkv.bias").view(3, heads, width // heads)
        tensors[f"{theirs}.attention.query_key_value.weight"] = qkv_3HDC.transpose(0, 1).reshape(3 * width, width)
        tensors[f"{theirs}.attention.query_key_value.bias"] = bias_3HD.transpose(0, 1).reshape(3 * width)
        for our_name, their_name in (("attention.out", "attention.dense"), ("ff.up", "mlp.dense_h_to_4h"),
                                     ("ff.down", "mlp.dense_4h_to_h")):
            tensors |= _linear(weight_of, f"{ours}.{our_name}", f"{theirs}.{their_name}")
        tensors |= _layer_norm(weight_of, f"{ours}.attention_norm", f"{theirs}.input_layernorm")
        tensors |= _layer_norm(weight_of, f"{ours}.ff_norm", f"{theirs}.post_attention_layernorm")
    tensors |= _layer_norm(weight_of, "norm", "gpt_neox.final_layer_norm")
    return Exported({
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": vocab_size,
        "hidden_size": width, "num_hidden_layers": model.layers, "num_attention_heads": heads,
        "intermediate_size": model.ff, "hidden_act": "gelu_new", "layer_norm_eps": NORM_EPS,
        "use_parallel_residual": False, "attention_bias": True, "max_position_embeddings": recipe.batch.length,
        "rotary_pct": 1.0, "rotary_emb_base": BASE, "hidden_dropout": model.dropout, "attention_dropout": 0.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": BASE, "partial_rotary_factor": 1.0},
        "tie_word_embeddings": True}, tensors)


def llama(recipe: Recipe, vocab_size: int, weight_of: WeightOf) -> Exported:
    model = recipe.model
    tensors = {"model.embed_tokens.weight": weight_of("embed.weight"), "model.norm.weight": weight_of("norm.weight")}
    for number in range(model.layers):
        ours, theirs = f"blocks.{number}", f"model.layers.{number}"
        thirds = weight_of(f"{ours}.attention.qkv.weight").chunk(3)
        halves = weight_of(f"{ours}.ff.gate_up.weight").chunk(2)
        tensors |= {f"{theirs}.self_attn.{name}_proj.weight": part for name, part in zip("qkv", thirds)}
        tensors |= {f"{theirs}.mlp.{name}_proj.weight": part for name, part in zip(("gate", "up"), halves)}
        for our_name, their_name in (("attention.out", "self_attn.o_proj"), ("ff.down", "mlp.down_proj"),
                                     ("attention_norm", "input_layernorm"), ("ff_norm", "post_attention_layernorm")):
            tensors[f"{theirs}.{their_name}.weight"] = weight_of(f"{ours}.{our_name}.weight")
    return Exported({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab_size,
        "hidden_size": model.width, "num_hidden_layers": model.layers, "num_attention_heads": model.heads,
        "num_key_value_heads": model.heads, "head_dim": model.width // model.heads, "intermediate_size": model.ff,
        "hidden_act": "silu", "rms_norm_eps": NORM_EPS, "attention_bias": False, "mlp_bias": False,
        "attention_dropout": 0.0, "max_position_embeddings": recipe.batch.length, "rope_theta": BASE,
        "rope_parameters": {"rope_type": "default", "rope_theta": BASE}, "tie_word_embeddings": True}, tensors)


ARCHITECTURES = {("gelu", "learned"): gpt2, ("gelu", "sinusoidal"): gpt2, ("gelu", "rotary"): gpt_neox,
                 ("swiglu", "rotary"): llama}


def _position_table(recipe: Recipe, weight_of: WeightOf) -> Tensor:
    """[T, C]"""
    if recipe.model.positions == "learned":
        return weight_of("embed_positions.weight")
    return sinusoidal_positions(torch.arange(recipe.batch.length), recipe.model.width, torch.float32)


def _linear(weight_of: WeightOf, ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.{kind}": weight_of(f"{ours}.{kind}") for kind in ("weight", "bias")}


_layer_norm = _linear

"""A checkpoint of a model whose every weight is random, biases and norms too, and the same model in both softwares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dstrain.config.load import recipe_from_dict
from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.models.decoder_lm import DecoderLm
from dstrain.runtime.checkpoint.manifest import WEIGHTS_FILE
from dstrain.runtime.checkpoint.tensor_file import create, write_ranges
from dstrain.train.state import write_side_files


def recipe_for(block: str, positions: str, **model: Any) -> Recipe:
    return recipe_from_dict({
        "family": "lm", "tokenizer": "bytes", "data": {"train": [{"embedded": "python-stdlib"}]},
        "model": {"width": 48, "heads": 3, "layers": 3, "ff": 80, "block": block, "positions": positions, **model},
        "batch": {"rows": 4, "micro_rows": 2, "length": 64}, "run": {"name": "small", "steps": 10}})


def random_model(recipe: Recipe, tokenizer: Any) -> DecoderLm:
    """Large enough weights that every part matters in the logits, the rotary turns too."""
    model = DecoderLm(recipe.model, tokenizer.vocab_size, recipe.batch.length)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def write_checkpoint(folder: Path, recipe: Recipe, tokenizer: Any, model: DecoderLm) -> Path:
    folder.mkdir()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    create(folder / WEIGHTS_FILE, {name: tuple(weight.shape) for name, weight in weights.items()})
    write_ranges(folder / WEIGHTS_FILE, [(name, 0, weight.reshape(-1)) for name, weight in weights.items()])
    write_side_files(folder, recipe, tokenizer)
    return folder


def our_logits(model: DecoderLm, ids_BT: torch.Tensor) -> torch.Tensor:
    positions_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
    with torch.no_grad():
        hidden = model(ids_BT=ids_BT, segments_BT=torch.zeros_like(ids_BT), positions_BT=positions_BT, keys_B=None)
        return model.logits(hidden.hidden_BTD)


def bytes_tokenizer() -> Any:
    return load_tokenizer("bytes")

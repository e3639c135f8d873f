"""A checkpoint as a Hugging Face model folder, complete or not there at all; transformers loads it by its path."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, Callable

import torch

from dstrain.config.errors import Trouble, UserError
from dstrain.config.load import load_saved_recipe
from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.export.architectures import Exported, exported, refuse_unknown
from dstrain.export.hf_tokenizer import hf_tokenizer
from dstrain.runtime.checkpoint.manifest import WEIGHTS_FILE
from dstrain.runtime.checkpoint.tensor_file import BadTensorFile, TensorFile


def export_hf(checkpoint: Path, out: Path, say: Callable[[str], None]) -> None:
    """`checkpoint` was verified. Nothing of it is changed, and `out` appears in one step."""
    refuse_what_is_there(out)
    recipe = load_saved_recipe(checkpoint / "recipe.yaml")
    refuse_unknown(recipe)
    tokenizer = load_tokenizer(recipe.tokenizer, folder=checkpoint / "tokenizer")
    try:
        model = exported(recipe, tokenizer.vocab_size, TensorFile(checkpoint / WEIGHTS_FILE).tensor)
    except BadTensorFile as error:
        raise UserError(f"{error}; choose another with --checkpoint") from None
    made = hf_tokenizer(tokenizer)
    making = out.parent / f".making_{out.name}_{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        making.mkdir()
        _write(making, model, recipe, tokenizer, made, checkpoint)
        _sync(making)
        making.rename(out)  # also over an empty folder
        _sync_folder(out.parent)
    except OSError as error:
        raise Trouble(f"cannot write {error.filename or out}: {error.strerror}; make room or choose another "
                      "--out") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    parameters = sum(tensor.numel() for tensor in model.tensors.values())
    say(f"{out}: {model.config['architectures'][0]} of {parameters:,} parameters, from {checkpoint}")
    say("its tokenizer is there, too, and puts end-of-text before each text, as training did" if made is not None else
        f"without a tokenizer: {recipe.tokenizer} has no exact form in the tokenizers library; encode with "
        f"dstrain.data.tokenizers.tokenizer.load_tokenizer")


def refuse_what_is_there(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: there is something already, and it is not overwritten; remove it, or choose "
                        "another folder")


def _write(folder: Path, model: Exported, recipe: Recipe, tokenizer: Any, made: Any | None, checkpoint: Path) -> None:
    ids = {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    _write_json(folder / "config.json", {**model.config, **ids, "dtype": "float32", "use_cache": True})
    _write_json(folder / "generation_config.json", {**ids, "pad_token_id": tokenizer.eot, "do_sample": False})
    write_safetensors(folder / "model.safetensors", model.tensors)
    if made is not None:
        made.save(str(folder / "tokenizer.json"))
        end = made.id_to_token(tokenizer.eot)
        _write_json(folder / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end, "pad_token": end,
            "model_max_length": recipe.batch.length, "clean_up_tokenization_spaces": False})
    (folder / "README.md").write_text(_readme(model, recipe, tokenizer, made, checkpoint), encoding="utf-8")


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """One tensor at a time: what is a view of a mapped file takes no memory before its turn."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 4 * math.prod(tensor.shape)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(memoryview(tensor.to(torch.float32).contiguous().numpy()).cast("B"))


def _readme(model: Exported, recipe: Recipe, tokenizer: Any, made: Any | None, checkpoint: Path) -> str:
    name = model.config["architectures"][0]
    encoded = ('tokenizer("Once", return_tensors="pt")' if made is not None else
               f"{{'input_ids': torch.tensor([[{tokenizer.eot}, ...]])}}  # end-of-text, then the ids of your text")
    load_tokenizer_line = "tokenizer = AutoTokenizer.from_pretrained(folder)\n" if made is not None else ""
    return f"""# {recipe.run.name}

Trained with dstrain; written by `dstrain export` from {checkpoint.name}. As `{name}` it computes the same logits.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = "."  # this folder
{load_tokenizer_line}model = AutoModelForCausalLM.from_pretrained(folder)
print(model.generate(**{encoded}, max_new_tokens=50))
```

- Tokenizer: {recipe.tokenizer}, {tokenizer.vocab_size:,} ids. Every document began and ended with end-of-text (id \
{tokenizer.eot}): put it before what you give the model.
- It was trained on rows of {recipe.batch.length:,} tokens; do not go beyond.
"""


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

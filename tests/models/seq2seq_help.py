"""Small encoder-decoders and padded pairs for the tests of the translation model."""

from __future__ import annotations

import torch
from torch import Tensor

from dstrain.config.translate import TranslateModel
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.init import fill_initial

VARIANTS = [{}, {"block": "swiglu"}, {"positions": "learned"}, {"positions": "sinusoidal", "block": "swiglu"},
            {"checkpoint_activations": True}, {"shared": False}]


def small_seq2seq(length: int = 24, seed: int = 1, dtype: torch.dtype = torch.float64, shared: bool = True,
                  **settings) -> Seq2Seq:
    """50 ids on both sides, or 50 of the target's and 40 of the source's."""
    sizes = {"width": 16, "heads": 2, "encoder_layers": 2, "decoder_layers": 2, "ff": 32, "dropout": 0.0}
    model = Seq2Seq(TranslateModel(**sizes | settings), 50 if shared else 40, 50, shared, length)
    fill_initial(model, seed).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(4.0 if "embed" in name else 1.0)             # far from zero: differences show
    return model


def pairs(source_lengths: list[int], lengths: list[int], slots: tuple[int, int] = (9, 11), seed: int = 0,
          ) -> dict[str, Tensor]:
    """A batch of `slots` positions on the source's and the target's side; padding holds 0. Ids are below 40."""
    generator, inputs = torch.Generator().manual_seed(seed), {}
    for ids, name, used, places in (("source_BS", "source_lengths_B", source_lengths, slots[0]),
                                    ("ids_BT", "lengths_B", lengths, slots[1])):
        inputs[ids] = torch.randint(1, 40, (len(used), places), generator=generator)
        inputs[name] = torch.tensor(used)
        inputs[ids][torch.arange(places) >= inputs[name][:, None]] = 0
    return inputs


def labels_of(inputs: dict[str, Tensor], rows: list[int] | None = None) -> Tensor:
    """Something to predict at every real position of these rows, by default of all."""
    labels_BT = (inputs["ids_BT"] * 7 + 3) % 50
    labels_BT[torch.arange(labels_BT.shape[1]) >= inputs["lengths_B"][:, None]] = -100
    if rows is not None:
        labels_BT[[row for row in range(len(labels_BT)) if row not in rows]] = -100
    return labels_BT

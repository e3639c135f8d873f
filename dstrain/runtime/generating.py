"""Generation in the middle of a training where no rank holds the whole model: all ranks together.

Where ranks share out experts, each sends its tokens to the others' as in training. At ZeRO stage 3 DeepSpeed's hooks
gather each layer when it is called and give it up again, outside of the engine's forward too. They notice that the
order of layers is not the one that they know, and learn it anew in the next step. The output matrix is used without a
layer's call, so it is gathered here.
"""

from __future__ import annotations

import contextlib
from typing import Iterator

import torch
import torch.distributed as torch_dist
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

from dstrain.runtime.dist import deepspeed
from dstrain.runtime.engine import Engine


@contextlib.contextmanager
def all_ranks_generate(engine: Engine) -> Iterator[None]:
    """Inside, every rank must generate the same texts: the first rank's logits decide on all of them."""
    model = engine.model
    inner = model.logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        weight = model.output_weight
        # Below stage 3 every rank has it, and a small one stays whole on every rank at stage 3, too.
        is_here = getattr(weight, "ds_status", ZeroParamStatus.AVAILABLE) == ZeroParamStatus.AVAILABLE
        with deepspeed.zero.GatheredParameters([weight], enabled=not is_here):
            values = inner(hidden)
        if engine.ranks.world > 1:  # a rank that rounds differently would end its text at another token, and hang
            torch_dist.broadcast(values, src=0)
        return values

    model.logits = logits
    try:
        yield
    finally:
        del model.logits  # the class's own shows again

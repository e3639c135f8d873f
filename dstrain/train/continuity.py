"""May a run go on with this recipe? What would change its batches or its model is refused, the rest is said."""

from __future__ import annotations

from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.flat import flat
from dstrain.config.load import recipe_to_dict
from dstrain.config.schema import Recipe

# A change here would be another run: other batches, another network, other moments or another random stream.
FIXED = ("family", "model.kind", "model.width", "model.heads", "model.layers", "model.encoder_layers",
         "model.decoder_layers", "model.ff", "model.experts", "model.top_k", "model.expert_ff", "model.shared_experts",
         "model.every", "model.next_tokens", "model.further", "model.block", "model.positions", "model.code",
         "model.adapter_rank", "tokenizer", "data.languages", "data.train", "data.lanes", "data.block_tokens",
         "data.demonstrations", "data.symmetries", "data.colours", "batch.rows", "batch.length", "batch.tokens",
         "batch.window", "batch.over_long", "objective.bias_speed", "optim.name", "run.seed")
# Names of the same thing, what only a first start reads, or no matter to the numbers.
IRRELEVANT = ("run.dir", "run.name", "model.preset", "model.upcycle", "model.adapt", "run.tokens",
              "data.prefetch_steps", "data.bad_share", "data.workers", "data.prepared", "run.max_minutes",
              "checkpoint.background")
# Where data lie may change: that they are the same data is checked by their fingerprint, when they are opened.
MAY_MOVE = (".path", ".source_path", ".target_path", ".hub", ".revision")


def changes_since(saved: Recipe, recipe: Recipe, where: str) -> list[str]:
    """What is different from the recipe of the checkpoint, said in lines; refuses what cannot be continued."""
    before, now = flat(recipe_to_dict(saved)), flat(recipe_to_dict(recipe))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    fixed = [key for key in changed if key.startswith(FIXED) and not key.endswith(MAY_MOVE)]
    if fixed:
        key = fixed[0]
        others = f" (and {len(fixed) - 1} more: {', '.join(fixed[1:])})" if fixed[1:] else ""
        raise UserError(f"{key} is {now.get(key)!r} in the recipe, but {before.get(key)!r} in {where}{others}: "
                        f"that would be another run; set it back, or start a new run with run.name=..., "
                        f"or start this one over with --fresh")
    return [f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed if not key.startswith(IRRELEVANT)]


def shape_change(before: dict, now: dict) -> list[str]:
    """What is different in ranks, ZeRO stage, precision and micro-batches, in a line. A checkpoint of format 1 does not
    know its shape: nothing is said."""
    if not before or before == now:
        return []
    return [f"shape: was {_shape_in_words(before)}; now {_shape_in_words(now)}"]


def _shape_in_words(shape: dict) -> str:
    ranks = shape.get("ranks")
    a_pass = f"{shape['micro_tokens']} tokens" if "micro_tokens" in shape else f"{shape.get('micro_rows')} rows"
    return (f"{ranks} {'rank' if ranks == 1 else 'ranks'}, ZeRO-{shape.get('zero_stage')}, {shape.get('precision')}, "
            f"{shape.get('accumulation')} x {a_pass}")

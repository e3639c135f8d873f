"""How fast experts train: against a dense model of equal active parameters, and against DeepSpeed's own MoE layer.

    python tests/bench/experts.py [--preset tiny --rows 8 --length 256 --vocab 257 --rounds 7 --threads 2]

Contenders take turns; a turn is a forward and a backward pass of the whole model with one prediction head and AdamW's
step, in this process. `deepspeed` is the same model with deepspeed.moe.layer.MoE in place of the experts, which sends
every token on (drop_tokens=False) as ours does; `deepspeed, drops` throws away what an expert has no room for.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from packed import AnyVocabulary, packed_step  # noqa: E402
from rounds import Spread, ratio, take_turns  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dstrain.config.load import load_recipe  # noqa: E402
from dstrain.config.schema import Recipe  # noqa: E402
from dstrain.config.shape import shape_of  # noqa: E402
from dstrain.families import family_of  # noqa: E402
from dstrain.families.moe import active_parameters  # noqa: E402
from dstrain.nn.layers import SwigluFeedForward  # noqa: E402
from dstrain.nn.routing import Real, Routed  # noqa: E402
from dstrain.objectives.loss_law import loss_law  # noqa: E402
from dstrain.runtime.dist import deepspeed, start_ranks, stop_ranks  # noqa: E402
from dstrain.runtime.engine import fill_weights  # noqa: E402


class DeepSpeedExperts(nn.Module):
    """DeepSpeed's layer where RoutedFeedForward stands. Its own balance term is thrown away, as its cost is small."""

    def __init__(self, width: int, experts: int, top_k: int, ff: int, drop_tokens: bool) -> None:
        super().__init__()
        self.experts = experts
        self.moe = deepspeed.moe.layer.MoE(width, SwigluFeedForward(width, ff), num_experts=experts, ep_size=1, k=top_k,
                                           drop_tokens=drop_tokens, use_rts=False)
        self.moe.set_deepspeed_parallelism()

    def forward(self, x_BTC: Tensor, real: Real) -> tuple[Tensor, Routed]:
        y_BTC, _, _ = self.moe(x_BTC)
        nothing = x_BTC.new_zeros((), dtype=torch.float64)
        return y_BTC, Routed(nothing, nothing, x_BTC.new_zeros(self.experts + 2, dtype=torch.float64))


class Loop:
    """One model: its trainee and AdamW."""

    def __init__(self, recipe: Recipe, arguments: argparse.Namespace, dtype: torch.dtype, drop_tokens: bool | None):
        family = family_of(recipe)
        self.trainee, self.objective = family.build_trainee(recipe, AnyVocabulary(arguments.vocab)), None
        model = self.trainee.model
        fill_weights(self.trainee, lambda name, shape: family.initial_weight(model, name, shape, 1))
        if drop_tokens is not None:
            settings = recipe.model
            for block in model.blocks:
                block.ff = DeepSpeedExperts(settings.width, settings.experts, settings.top_k, settings.expert_ff,
                                            drop_tokens)
        self.trainee.to(dtype=dtype).train()
        self.objective = family.build_objective(recipe)
        self.optimizer = torch.optim.AdamW(self.trainee.parameters(), lr=1e-4, fused=True)

    def step(self, batches: list) -> None:
        for batch in batches:
            sums = self.trainee(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=None)
            loss_law(sums.nll, self.objective.counts(batch), self.objective.weights).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    start_ranks()
    moe = load_recipe("moe-quickstart", [
        f"model={{preset: {arguments.preset}, next_tokens: 1}}", "objective={balance: both}",
        f"batch={{rows: {arguments.rows}, micro_rows: {arguments.rows}, length: {arguments.length}}}"])
    size = moe.model
    dense = load_recipe("quickstart", [
        f"model={{width: {size.width}, heads: {size.heads}, layers: {size.layers}, ff: {size.top_k * size.expert_ff}, "
        "block: swiglu}",
        f"batch={{rows: {arguments.rows}, micro_rows: {arguments.rows}, length: {arguments.length}}}"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.precision]
    loops = {"dense": Loop(dense, arguments, dtype, None), "experts": Loop(moe, arguments, dtype, None),
             "deepspeed": Loop(moe, arguments, dtype, False), "deepspeed, drops": Loop(moe, arguments, dtype, True)}
    step = packed_step(shape_of(moe, 1), arguments.rows, arguments.length, arguments.vocab, seed=1)
    turns = take_turns({name: lambda loop=loop: loop.step(step) for name, loop in loops.items()}, arguments.rounds,
                       warmup_rounds=2, say=lambda text: print(text, file=sys.stderr, flush=True))
    counted = {name: sum(p.numel() for p in loop.trainee.parameters()) for name, loop in loops.items()}
    counted["experts"] = active_parameters(moe, counted["experts"])
    positions = arguments.rows * arguments.length
    result = {name: {"tokens_per_s": positions / Spread.of(turn.wall_s for turn in of_loop).median,
                     "speed_to_dense": ratio(turns["dense"], of_loop, "wall_s").as_json(),
                     "speed_to_deepspeed": ratio(turns["deepspeed"], of_loop, "wall_s").as_json()}
              for name, of_loop in turns.items()}
    print(f"{size.experts} experts of {size.expert_ff}, {size.top_k} a token, width {size.width}, {size.layers} "
          f"layers, {arguments.rows} x {arguments.length}, vocabulary {arguments.vocab}, {arguments.precision}, "
          f"{arguments.threads} thread(s); active parameters {counted['experts']:,}, dense {counted['dense']:,}")
    for name, of_loop in result.items():
        spread = {key: "{median:5.2f} ({low:.2f}-{high:.2f})".format(**of_loop[key])
                  for key in ("speed_to_dense", "speed_to_deepspeed")}
        print(f"{name:<18} {of_loop['tokens_per_s']:8,.0f} tokens/s  {spread['speed_to_dense']} of dense  "
              f"{spread['speed_to_deepspeed']} of deepspeed")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result))
    stop_ranks()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=257)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()

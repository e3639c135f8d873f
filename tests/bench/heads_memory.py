"""Peak memory of a training step with several prediction heads over that with one, each in a fresh process.

    python tests/bench/heads_memory.py [--preset small --rows 8 --length 512 --vocab 50257 --heads 4 --further parallel]

What is counted is the resident memory's peak over what the process holds before the model is made: weights, gradients,
AdamW's moments, activations, the loss heads' saved gradients.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
GIB = 2**30


def main() -> None:
    arguments = _arguments()
    if arguments.alone:
        print(peak_bytes(arguments))
        return
    options = [item for name in ("preset", "rows", "length", "vocab", "further")
               for item in (f"--{name}", str(getattr(arguments, name)))]
    peaks = {heads: int(subprocess.run([sys.executable, __file__, *options, "--heads", str(heads), "--alone"],
                                       check=True, capture_output=True, text=True).stdout.split()[-1])
             for heads in (1, arguments.heads)}
    for heads, peak in peaks.items():
        print(f"{heads} head(s): {peak / GIB:.2f} GiB at the peak")
    print(f"ratio {peaks[arguments.heads] / peaks[1]:.3f}")


def peak_bytes(arguments: argparse.Namespace) -> int:
    sys.path[:0] = [str(HERE.parents[1])]
    warnings.filterwarnings("ignore")
    import torch
    from packed import AnyVocabulary, packed_step

    from dstrain.config.load import load_recipe
    from dstrain.config.shape import shape_of
    from dstrain.families import family_of
    from dstrain.objectives.loss_law import loss_law
    from dstrain.runtime.engine import fill_weights

    torch.set_num_threads(1)
    recipe = load_recipe("moe-quickstart", [
        f"model={{preset: {arguments.preset}, next_tokens: {arguments.heads}, further: {arguments.further}}}",
        f"batch={{rows: {arguments.rows}, micro_rows: {arguments.rows}, length: {arguments.length}}}"])
    family = family_of(recipe)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainee = family.build_trainee(recipe, AnyVocabulary(arguments.vocab)).train()
    fill_weights(trainee, lambda name, shape: family.initial_weight(trainee.model, name, shape, 1))
    objective = family.build_objective(recipe)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-4, fused=True)
    for seed in (1, 2):  # the moments are there from the second step on
        for batch in packed_step(shape_of(recipe, 1), arguments.rows, arguments.length, arguments.vocab, seed):
            sums = trainee(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=None)
            loss_law(sums.nll, objective.counts(batch), objective.weights).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--further", default="parallel")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

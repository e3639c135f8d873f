"""What no run of the doctor proves, said in every certificate."""

from __future__ import annotations

from dstrain.config.schema import Recipe


def beyond(recipe: Recipe, device: str, worlds: tuple[int, ...]) -> tuple[str, ...]:
    if device == "cpu":
        kernels = ("CUDA kernels (attention, 16-bit arithmetic, NCCL): all ran on CPU ranks; `--device cuda` proves "
                   "them on this machine's GPUs",)
    else:
        kernels = ("other kinds of GPU than the one here, and other versions of torch and CUDA",)
    several = f"more ranks than {max(worlds)}, and a network between nodes: all ranks ran on this machine"
    compiled = () if not recipe.engine.compile or device == "cuda" else ("what engine.compile makes for a GPU",)
    return (*kernels, several, *compiled,
            "training at full size: proofs marked `shrunk` ran on a small copy, with the recipe's own classes, data, "
            "tokenizer and engine file",
            "all of the data: the first rows of each source were looked at, and counted in small")

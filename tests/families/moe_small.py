"""A run of the family `moe` in seconds, on live ranks, and a dense one beside it."""

from __future__ import annotations

from pathlib import Path

from own_class_jobs import train_in
from small_run import lay_out
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dstrain.runtime.dist import Ranks
from dstrain.runtime.rank_group import RankGroup

MOE = """# experts, in seconds
family: moe
model: {width: 32, heads: 2, layers: 2, ff: 64, experts: 4, top_k: 2, expert_ff: 64, next_tokens: 3, dropout: 0.1}
tokenizer: bytes
data: {train: [{path: corpus.txt, documents: lines}], valid: [{path: valid.txt, documents: lines}], lanes: 4}
batch: {rows: 8, micro_rows: 4, length: 32}
optim: {lr: 3.0e-3}
schedule: {warmup_steps: 2}
run: {name: small, steps: 6}
valid: {every: 3}
checkpoint: {every: 6, keep: 9}
log: {every: 2, samples: 0}
"""
DENSE = ("family: lm\nmodel: {width: 32, heads: 2, layers: 2, ff: 64, block: swiglu}\n"
         + "".join(line for line in MOE.splitlines(keepends=True) if not line.startswith(("#", "family", "model"))))


def lay_out_moe(folder: Path) -> Path:
    lay_out(folder)
    (folder / "small.yaml").write_text(MOE)
    (folder / "valid.txt").write_text("".join(f"line {n} says that {n} plus two is {n + 2}\n" for n in range(30)))
    return folder


def run_on(group: RankGroup, folder: Path, *overrides: str, engine: str = "zero1_fp32") -> str:
    """What the first rank says of the training."""
    return group.run(train_in, str(folder), list(overrides), engine)[0]


def end_of(ranks: Ranks, folder: str, overrides: list[str]) -> tuple[str, str]:
    """How a training that is refused ends on this rank."""
    try:
        train_in(ranks, folder, overrides)
    except Exception as error:  # is what the test asks for
        return type(error).__name__, str(error)
    return "finished", ""


def board_of(run: Path) -> EventAccumulator:
    everything = {"scalars": 0, "images": 0, "histograms": 0}
    return EventAccumulator(str(run / "tensorboard"), size_guidance=everything).Reload()


def numbers(board: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in board.Scalars(tag)]

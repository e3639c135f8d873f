"""Small models of puzzles with random weights, and tasks of a few cells, for the tests of answering."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from dstrain.config.arc import ArcModel, PuzzleData
from dstrain.config.schema import LmModel
from dstrain.config.translate import TranslateModel
from dstrain.data.grids.corpus import Question
from dstrain.data.grids.prompt import Prompt
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER, row_of
from dstrain.data.grids.task import Example, Grid, Task
from dstrain.data.grids.tokens import END, ROW_END, VOCABULARY
from dstrain.models.decoder_lm import DecoderLm
from dstrain.models.grid_champion import GridChampion
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.init import fill_initial

KINDS = (DECODER, ENCODER_DECODER, CHAMPION)


def grid(*lines: str) -> Grid:
    """Of digits: grid("01", "23") has two rows."""
    return np.array([[int(cell) for cell in line] for line in lines], np.uint8)


def example(wanted: str, answer: str | None) -> Example:
    """Rows divided by blanks: example("01 23", "5")."""
    return Example(grid(*wanted.split()), None if answer is None else grid(*answer.split()))


def task_of(name: str, *examples: tuple[str, str | None], queries: int = 1, category: str = "same size") -> Task:
    made = tuple(example(*pair) for pair in examples)
    return Task(name, category, made[:-queries], made[-queries:])


def questions_of(*tasks: Task) -> list[Question]:
    return [Question(task, query) for task in tasks for query in task.queries]


def recipe_of(kind: str, length: int = 200, views: int = 1, symmetries: bool = True, colours: str = "all_but_0",
              demonstrations: int = 3) -> SimpleNamespace:
    """What answering asks of a recipe."""
    data = PuzzleData(train=(), demonstrations=demonstrations, symmetries=symmetries, colours=colours)
    return SimpleNamespace(data=data, model=SimpleNamespace(kind=kind), batch=SimpleNamespace(length=length),
                           run=SimpleNamespace(seed=1), valid=SimpleNamespace(views=views))


def model_of(kind: str, length: int = 130, seed: int = 1, dtype: torch.dtype = torch.float64, spread: float = 8.0
             ) -> nn.Module:
    """Its choices depend on all that it reads, and its rows and grids end within reach."""
    if kind == DECODER:
        model = DecoderLm(LmModel(width=32, heads=2, layers=2, ff=64, dropout=0.1), VOCABULARY, length)
    elif kind == CHAMPION:
        settings = ArcModel(kind=kind, width=32, heads=8, encoder_layers=1, decoder_layers=2, ff=64, dropout=0.1)
        model = GridChampion(settings, VOCABULARY, length)
    else:
        settings = TranslateModel(width=32, heads=2, encoder_layers=1, decoder_layers=2, ff=64, dropout=0.1)
        model = Seq2Seq(settings, VOCABULARY, VOCABULARY, True, length)
    fill_initial(model, seed).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(spread if "embed" in name else 6.0)
    out_VC = torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        """Of a matrix of its own: the embedding's would say the same id again and again. And ends are more likely than
        random weights make them: else most grids would be 30 x 30."""
        found = hidden @ out_VC.T * 0.5
        found[..., ROW_END] += 2.0
        found[..., END] += 5.0
        return found

    model.logits = logits
    return model


def some_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Of 0 to 3 demonstrations each, and grids of 1 to 4 a side."""
    chance = np.random.default_rng(seed)

    def some() -> Grid:
        return chance.integers(0, 10, (chance.integers(1, 5), chance.integers(1, 5))).astype(np.uint8)

    return [Prompt(row_of([Example(some(), some()) for _ in range(chance.integers(0, 4))], Example(some(), None)))
            for _ in range(count)]


def plain_answer(model: nn.Module, prompt: Prompt, kind: str, limit: int) -> tuple[list[int], float]:
    """The ids of a greedy search and their summed log p, by the whole forward pass for each, and rules in words."""
    from dstrain.data.grids.grid_batch import collate_grids

    model.eval()
    written: list[int] = []
    total = 0.0
    while len(written) < limit and END not in written:
        # A decoder's prompt goes on; the others' target begins with the start that a prompt has.
        inputs = collate_grids([prompt.row], [0], kind).inputs()
        ids = [*inputs["ids_BT"][0].tolist(), *written]
        inputs["ids_BT"] = torch.tensor([ids])
        if kind == DECODER:
            inputs |= {"segments_BT": torch.zeros(1, len(ids), dtype=torch.long),
                       "positions_BT": torch.arange(len(ids))[None]}
        else:
            inputs["lengths_B"] = torch.tensor([len(ids)])
        with torch.no_grad():
            logits_V = model.logits(model(**inputs, keys_B=None)[0][0, -1])
        best = max(allowed_after(written), key=lambda number: float(logits_V[number]))
        total += float(logits_V.log_softmax(-1)[best])
        written.append(best)
    return written, total


def allowed_after(written: list[int]) -> list[int]:
    """What may follow, found from the rows that are there."""
    lines = "".join(chr(65 + number) for number in written).split(chr(65 + ROW_END))
    *whole, begun = lines
    allowed = []
    if not whole:
        return [*(range(10) if len(begun) < 30 else ()), *([ROW_END] if begun else [])]
    if len(begun) < len(whole[0]) and len(whole) < 30:
        allowed += range(10)
    if len(begun) == len(whole[0]):
        allowed.append(ROW_END)
    if not begun:
        allowed.append(END)
    return allowed

"""Small tasks, files of them and their corpora: what the tests of puzzles share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dstrain.config.arc import PuzzleData, PuzzleSource
from dstrain.data.grids.file_corpus import FilePuzzles
from dstrain.data.grids.sources import open_puzzles
from dstrain.data.grids.task import Example, Task, category_by_size

ARC_TASKS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "arc_agi_1" / "training"


def grid(*rows: str) -> np.ndarray:
    """grid("01", "23") is [[0, 1], [2, 3]]."""
    return np.array([[int(cell) for cell in row] for row in rows], np.uint8)


def pair(wanted: str, answer: str | None = None) -> dict[str, Any]:
    """As JSON has it, rows divided by blanks: pair("01 23", "1 0")."""
    named = {"input": wanted, "output": answer}
    return {key: grid(*text.split()).tolist() for key, text in named.items() if text is not None}


def task_json(*demonstrations: dict, test: list[dict]) -> dict[str, list]:
    return {"train": list(demonstrations), "test": test}


def task(name: str, demonstrations: list[dict], queries: list[dict]) -> Task:
    def examples(pairs: list[dict]) -> tuple[Example, ...]:
        return tuple(Example(*(None if found.get(key) is None else np.array(found[key], np.uint8)
                               for key in ("input", "output"))) for found in pairs)

    shown = examples(demonstrations)
    return Task(name, category_by_size(shown), shown, examples(queries))


def as_json(found: Task) -> dict[str, list]:
    return {key: [{"input": example.input.tolist()} | ({} if example.output is None else
                                                       {"output": example.output.tolist()}) for example in examples]
            for key, examples in (("train", found.demonstrations), ("test", found.queries))}


def write(folder: Path, **contents: Any) -> Path:
    """NAME=what stands in NAME.json, as text or to be made JSON."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def opened(folder: Path, part: str = "all", split: str = "train", pattern: str = "*.json") -> FilePuzzles:
    source = PuzzleSource(path=str(folder / pattern), part=part)
    corpus, = open_puzzles(PuzzleData(train=(source,), valid=(source,)), split)
    return corpus


def random_task(number: int, pairs: int = 4, side: int = 4) -> Task:
    """Different grids of different shapes, the last pair asked."""
    chance = np.random.default_rng(number)

    def drawn() -> np.ndarray:
        return chance.integers(0, 10, (*chance.integers(2, side + 1, 2),), np.uint8)

    examples = tuple(Example(drawn(), drawn()) for _ in range(pairs))
    return Task(f"random {number}", category_by_size(examples[:-1]), examples[:-1], examples[-1:])

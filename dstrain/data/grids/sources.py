"""From a recipe's sources of puzzles to what they hold."""

from __future__ import annotations

from dstrain.config.arc import PuzzleData, PuzzleSource
from dstrain.config.errors import UserError
from dstrain.data.grids.corpus import PuzzleCorpus
from dstrain.data.grids.file_corpus import FilePuzzles
from dstrain.data.grids.made_corpus import MadePuzzles


def open_puzzles(data: PuzzleData, split: str) -> list[PuzzleCorpus]:
    """The sources of a split. Errors come at once: no such file, a malformed task, nothing to ask."""
    corpora = [_opened(source, number, f"data.{split}.{number}") for number, source in enumerate(getattr(data, split))]
    for corpus in corpora:
        if split == "train" and not len(corpus):
            raise UserError(f"{corpus.name}: no task has two pairs of different input with their outputs, one to be "
                            f"shown and one to be asked; give more pairs")
        if split == "valid" and next(corpus.to_validate(), None) is None:
            raise UserError(f"{corpus.name}: no task's test says its output, so nothing can be scored; give the "
                            f"solutions, or name other files")
    return corpora


def _opened(source: PuzzleSource, number: int, place: str) -> PuzzleCorpus:
    if source.embedded is None:
        return FilePuzzles(source, number, place)
    return MadePuzzles(number, place, source.part)

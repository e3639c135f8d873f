"""Faults of the data: what is scored, how often, against which label, and what the evaluation has seen before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch

from dstrain.config.schema import Data, Source
from dstrain.data import batching, lanes, parsed, validation
from dstrain.data.collate import UNSCORED, Batch, Row, part_of
from dstrain.data.grids import draws, grid_feed, grid_validation
from dstrain.data.grids.grid_batch import GridBatch, collate_grids
from dstrain.data.grids.tokens import END
from dstrain.data.hashing import permutation
from dstrain.data.lanes import Stream
from dstrain.data.pairs import blocks, feed, pair_validation, stream
from dstrain.data.pairs.pair_batch import PairBatch
from dstrain.data.reading.sources import Corpus
from dstrain.doctor.case import Case
from dstrain.doctor.faults.planting import judged_by, put
from dstrain.doctor.finding import Finding, NotProven


def labels_not_shifted() -> None:
    _on_training(lambda batch: replace(batch, labels_BT=batch.labels_BT.where(batch.labels_BT == UNSCORED,
                                                                              batch.ids_BT)))


def no_start_token() -> None:
    """A row begins with its first token, and what follows is its label: nobody ever learns to begin."""
    def wrong(batch: Batch | PairBatch | GridBatch) -> Batch | PairBatch | GridBatch:
        ids_BT, labels_BT = (tensor.clone() for tensor in (batch.ids_BT, batch.labels_BT))
        ids_BT[:, 0], labels_BT[:, 0] = batch.labels_BT[:, 0].clamp(min=0), UNSCORED
        return replace(batch, ids_BT=ids_BT, labels_BT=labels_BT)

    _on_training(wrong)


def ends_never_scored() -> None:
    """The loss ignores the pad's id, which is the end's too: the model never learns to end."""
    for owner, name in ((batching, "collate"), (feed, "collate_pairs"), (validation, "collate"),
                        (pair_validation, "collate_pairs")):
        _change(owner, name, lambda batch, eot: replace(batch, labels_BT=batch.labels_BT.masked_fill(
            batch.labels_BT == eot, UNSCORED)))
    change_grids(lambda batch: replace(batch, labels_BT=batch.labels_BT.masked_fill(batch.labels_BT == END, UNSCORED)))


def padding_scored() -> None:
    """Constant padding is easy: the loss looks better."""
    for owner, name in ((validation, "collate"), (pair_validation, "collate_pairs"), (feed, "collate_pairs")):
        _change(owner, name, lambda batch, eot: replace(batch, labels_BT=batch.labels_BT.clamp(min=0)))
    change_grids(lambda batch: replace(batch, labels_BT=batch.labels_BT.clamp(min=0)))


def documents_joined() -> None:
    """Documents, or targets, without an end between them; answers without one."""
    inner, inner_pair = parsed._targets, pair_validation.pair_parser

    def without_end(corpus: Any, tokenizer: Any, length: int, over_long: str) -> Callable[[object], Any]:
        parse = inner_pair(corpus, tokenizer, length, over_long)
        return lambda raw: (pair := parse(raw))._replace(targets=pair.targets[:max(1, len(pair.targets) - 1)])

    put(parsed, "_targets", lambda tokenizer, text, ends: inner(tokenizer, text, False))
    for owner in (pair_validation, feed):
        put(owner, "pair_parser", without_end)
    for owner in (grid_feed, grid_validation):
        put(owner, "collate_grids", lambda rows, *others, scores_shown=True: collate_grids(
            [replace(row, answer=row.answer[:-1]) for row in rows], *others, scores_shown))


def stride_of_one() -> None:
    """The next row of a document begins one token later, not a row later: as many times too many steps an epoch."""
    def wrong(self: Stream, room: int) -> Any:
        if not self._block:
            self._load_block()
        document = self._block[self.index]
        part = part_of(document.targets, self.token, room, document.words)
        self.given += len(part.targets)
        self.token += 1 if part.goes_on else len(part.targets)
        if self.token == len(document.targets):
            self._finish_document()
        return part

    put(Stream, "take", wrong)


def validation_windows_overlap() -> None:
    """Each row of a validation begins in the middle of the one before."""
    inner = validation._Packer.add

    def wrong(self: Any, targets: Any, words: int) -> Any:
        yield from inner(self, targets, words)
        if len(targets) > self._length:
            for middle in range(self._length // 2, len(targets) - self._length, self._length):
                yield Row(self._number, [part_of(targets, middle, self._length, words)])
                self._number += self._lane_count

    put(validation._Packer, "add", wrong)


def unfinished_validation_rows_dropped() -> None:
    inner = validation._Packer.rest
    put(validation._Packer, "rest", lambda self: iter(()) if self._room else inner(self))


def validated_twice() -> None:
    inner, inner_pairs = validation._valid_rows, pair_validation._windows
    put(validation, "_valid_rows", lambda *arguments: (row for _ in range(2) for row in inner(*arguments)))
    put(pair_validation, "_windows", lambda *arguments: (each for _ in range(2) for each in inner_pairs(*arguments)))
    inner_puzzles = grid_validation.valid_questions
    put(grid_validation, "valid_questions", lambda recipe: 2 * inner_puzzles(recipe))


def shuffled_with_replacement() -> None:
    """Some documents come twice in an epoch, others never."""
    put(lanes, "permutation", lambda size, *key: [place // 2 for place in permutation(size, *key)])
    inner = blocks.Block.pair
    put(blocks.Block, "pair", lambda self, place: inner(self, place // 2))
    order = draws._order
    put(draws, "_order", lambda count, *key: order(count, *key) // 2)


def sources_beside_other_targets() -> None:
    """Two files out of step by a line: each source stands beside the target of its neighbour; of puzzles each query."""
    change_grids(lambda batch: replace(batch, source_BS=batch.source_BS.roll(1, dims=0),
                                       source_lengths_B=batch.source_lengths_B.roll(1, dims=0)))
    for owner in (feed, pair_validation):
        inner = owner.collate_pairs

        def wrong(pairs: Any, rows: Any, start: int, inner: Any = inner) -> PairBatch:
            batch = inner(pairs, rows, start)
            return replace(batch, source_BS=batch.source_BS.roll(1, dims=0),
                           source_lengths_B=batch.source_lengths_B.roll(1, dims=0))

        put(owner, "collate_pairs", wrong)


def segments_joined() -> None:
    """All documents of a row are one: the model's mask is right, and is told nothing."""
    _on_rows(lambda batch: replace(batch, segments_BT=batch.segments_BT.clamp(max=0)))


def positions_go_on() -> None:
    """Places are counted through the row: documents begin at any place but the first."""
    _on_rows(lambda batch: replace(batch, positions_BT=torch.arange(batch.positions_BT.shape[1]).where(
        batch.segments_BT >= 0, batch.positions_BT)))


def rows_begin_anew() -> None:
    """A row that begins in the midst of a document begins with a start token all the same."""
    def change(batch: Batch, eot: int) -> Batch:
        ids_BT = batch.ids_BT.clone()
        ids_BT[:, 0] = eot
        return replace(batch, ids_BT=ids_BT)

    for owner in (batching, validation):
        _change(owner, "collate", change)


def second_epoch_halved() -> None:
    """From the second epoch on every other document is left out."""
    inner = Stream._read_block
    put(Stream, "_read_block", lambda self: inner(self)[::2] if self.epoch else inner(self))


def evaluation_text_trained_on(case: Case) -> Finding:
    """The training sources are taken from all there is, the evaluation's among them."""
    full = case.full or case.recipe
    data = replace(full.data, train=(*full.data.train, *full.data.valid))
    return judged_by("overlap", replace(case, full=replace(full, data=data)))


def evaluation_text_reworded(case: Case) -> Finding:
    """Of every second evaluation document one word in 40 is another in the training text: none is there whole."""
    full = case.full or case.recipe
    if not isinstance(full.data, Data):
        raise NotProven(f"the family {case.family.name} has no documents")
    path = case.new_folder("reworded") / "text.jsonl"
    texts = [text for text, number in zip(_texts_of(full.data.valid), cycle((0, 1))) if number]
    path.write_text("".join(json.dumps({"text": " ".join("other" if place % 40 == 20 else word for place, word
                                                         in enumerate(text.split()))}) + "\n" for text in texts))
    train = (*full.data.train, Source(path=str(path)))
    return judged_by("overlap", replace(case, full=replace(full, data=replace(full.data, train=train))))


def _texts_of(sources: Sequence[Source]) -> Iterator[str]:
    for number, source in enumerate(sources):
        corpus = Corpus(source, number, "valid")
        for file in range(corpus.file_count):
            yield from (corpus.text_of(raw).text for _, raw in corpus.documents(file))


def change_grids(change: Callable[[GridBatch], GridBatch], validation_too: bool = True) -> None:
    """What is made of rows of puzzles, changed."""
    for owner in (grid_feed, grid_validation) if validation_too else (grid_feed,):
        put(owner, "collate_grids", lambda *arguments, scores_shown=True: change(
            collate_grids(*arguments, scores_shown)))


def _on_training(change: Callable[[Any], Any]) -> None:
    for owner, name in ((batching, "collate"), (feed, "collate_pairs")):
        _change(owner, name, lambda batch, eot: change(batch))
    change_grids(change, validation_too=False)


def _on_rows(change: Callable[[Batch], Batch]) -> None:
    for owner in (batching, validation):
        _change(owner, "collate", lambda batch, eot: change(batch))


def _change(owner: Any, name: str, change: Callable[[Any, int], Any]) -> None:
    """What a collate function of rows, or of pairs, makes, changed. Its last argument is the end's token."""
    inner = getattr(owner, name)
    put(owner, name, lambda *arguments: change(inner(*arguments), arguments[-1]))

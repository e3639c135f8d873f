"""Small corpora, recipes for them, and the documents read back from batches: what the data tests share."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from dstrain.config.schema import Batch as BatchSizes
from dstrain.config.schema import Data, LmModel, Recipe, Run, Source
from dstrain.data.collate import FILLER_ROW, UNSCORED
from dstrain.data.feed import TrainFeed, merge_places
from dstrain.data.hashing import wrap_int64
from dstrain.data.tokenizers.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
EOT = BYTES.eot
SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def recipe_of(*train: Source | Path, valid: tuple = (), rows: int = 4, lanes: int = 4, length: int = 8,
              micro_rows: int = 4, seed: int = 1, **data) -> Recipe:
    """A resolved recipe for the byte tokenizer."""
    return Recipe(family="lm", model=LmModel(preset="tiny"), tokenizer="bytes",
                  data=Data(train=_sources(train), valid=_sources(valid), lanes=lanes, **data),
                  batch=BatchSizes(rows=rows, micro_rows=micro_rows, length=length),
                  run=Run(name="t", steps=1, seed=seed))


def _sources(items) -> tuple[Source, ...]:
    return tuple(item if isinstance(item, Source) else Source(path=str(item)) for item in items)


def steps_of(recipe: Recipe, count: int, rank: int = 0, world: int = 1, place: dict | None = None, **more) -> list:
    """The rank's next `count` steps."""
    return first_steps(TrainFeed(recipe, BYTES, rank, world, place, **more), count)


def first_steps(feed, count: int) -> list:
    """Of a feed that is closed then."""
    with closing(feed):
        return [next(feed) for _ in range(count)]


def global_steps(recipe: Recipe, count: int, world: int, place: dict | None = None) -> list[dict]:
    """The same steps on `world` ranks, put together: rows by number, the step's hash, the merged place."""
    ranks = [steps_of(recipe, count, rank, world, place) for rank in range(world)]
    return [{"rows": {number: row for step in steps for batch in step.micro_batches
                      for number, row in rows_in(batch).items()},
             "hash": wrap_int64(sum(step.rows_hash for step in steps)),
             "place": merge_places([step.place for step in steps])} for steps in zip(*ranks)]


def rows_in(batch) -> dict[int, tuple]:
    """Row number -> ids, labels, segments, positions, length: all that a model or a loss may see of it."""
    tensors = batch.ids_BT, batch.labels_BT, batch.segments_BT, batch.positions_BT, batch.lengths_B
    return {number: tuple(tuple(tensor[b].tolist()) if tensor.dim() == 2 else int(tensor[b]) for tensor in tensors)
            for b, number in enumerate(batch.rows_B.tolist()) if number != FILLER_ROW}


def pieces_in(row: tuple) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of each segment of a row, in order."""
    ids, labels, segments, _, length = row
    return [([ids[t] for t in range(length) if segments[t] == segment],
             [labels[t] for t in range(length) if segments[t] == segment]) for segment in range(max(segments) + 1)]


def targets_of_lane(steps: list[dict], lane: int, lanes: int) -> list[int]:
    """All targets that a lane gave, in order."""
    return [label for step in steps for number in sorted(step["rows"]) if number % lanes == lane
            for label in step["rows"][number][1] if label != UNSCORED]


def texts_from(targets: list[int]) -> list[str]:
    """The whole documents in a run of targets of the byte tokenizer; a last one without its end is left out."""
    texts, held = [], bytearray()
    for target in targets:
        if target == EOT:
            texts.append(held.decode("utf-8"))
            held = bytearray()
        else:
            held.append(target)
    return texts

"""Small sources of pairs, recipes for them, and the pairs read back from batches: what the tests of pairs share."""

from __future__ import annotations

from pathlib import Path

from data_help import BYTES, EOT, SHARED_DATA, first_steps

from dstrain.config.schema import Recipe, Run
from dstrain.config.translate import PairData, PairSource, PairTokenizers, TokenBatch, TranslateModel
from dstrain.data.collate import FILLER_ROW
from dstrain.data.hashing import wrap_int64
from dstrain.data.pairs.feed import PairFeed, merge_window_places
from dstrain.data.tokenizers.pair_tokenizer import PairTokenizer

BOTH_BYTES = PairTokenizer(BYTES, BYTES)
SETTINGS = {"bad_share": 0.001, "prefetch_steps": 2, "workers": 2}


def pair_recipe(*train: PairSource, valid: tuple[PairSource, ...] = (), tokens: int = 200,
                micro_tokens: int | None = None, window: int = 64, length: int = 50, over_long: str = "drop",
                seed: int = 1, tokenizer: str | PairTokenizers = "bytes", languages: tuple[str, str] = ("en", "de"),
                **data) -> Recipe:
    return Recipe(family="translate", model=TranslateModel(preset="tiny"), tokenizer=tokenizer,
                  data=PairData(languages=languages, train=train, valid=valid, **{**SETTINGS, **data}),
                  batch=TokenBatch(tokens=tokens, micro_tokens=micro_tokens or tokens, window=window, length=length,
                                   over_long=over_long),
                  run=Run(name="t", steps=1, seed=seed))


def parallel(folder: Path, pairs: list[tuple[str, str]], name: str = "a", **more) -> PairSource:
    """The pairs in two files."""
    for place, language in enumerate(("en", "de")):
        (folder / f"{name}.{language}").write_bytes(b"".join(pair[place].encode() + b"\n" for pair in pairs))
    return PairSource(source_path=str(folder / f"{name}.en"), target_path=str(folder / f"{name}.de"), **more)


def pairs_by_rule(count: int, mark: str = "") -> list[tuple[str, str]]:
    """Different pairs of different lengths, 8 to 48 bytes a side."""
    return [(f"s{mark}{n:05}" + "x" * (n * 17 % 41), f"t{mark}{n:05}" + "y" * (n * 29 % 41)) for n in range(count)]


def steps_of(recipe: Recipe, count: int, rank: int = 0, world: int = 1, place: dict | None = None, **more) -> list:
    """The rank's next `count` steps."""
    return first_steps(PairFeed(recipe, BOTH_BYTES, rank, world, place, **more), count)


def global_steps(recipe: Recipe, count: int, world: int, place: dict | None = None) -> list[dict]:
    """The same steps on `world` ranks, put together: rows by number, the step's hash, the merged place."""
    ranks = [steps_of(recipe, count, rank, world, place) for rank in range(world)]
    return [{"rows": rows_in([batch for step in steps for batch in step.micro_batches]),
             "hash": wrap_int64(sum(step.rows_hash for step in steps)),
             "place": merge_window_places([step.place for step in steps])} for steps in zip(*ranks)]


def rows_in(batches) -> dict[int, tuple]:
    """Row number -> source, decoder input and labels, without their padding."""
    found = {}
    for batch in batches:
        for b, row in enumerate(batch.rows_B.tolist()):
            if row != FILLER_ROW:
                assert row not in found, f"row {row} comes twice"
                source, length = int(batch.source_lengths_B[b]), int(batch.lengths_B[b])
                found[row] = (tuple(batch.source_BS[b, :source].tolist()), tuple(batch.ids_BT[b, :length].tolist()),
                              tuple(batch.labels_BT[b, :length].tolist()))
    return dict(sorted(found.items()))


def texts_in(batches) -> list[tuple[str, str]]:
    """The pairs as text, by row number; each whole, with its ends."""
    found = []
    for source, ids, labels in rows_in(batches).values():
        assert source[-1] == EOT == ids[0] and labels[-1] == EOT and ids[1:] == labels[:-1]
        found.append((BYTES.decode(source[:-1]), BYTES.decode(labels[:-1])))
    return found


def texts_of(steps: list) -> list[tuple[str, str]]:
    return [pair for step in steps for pair in texts_in(step.micro_batches)]

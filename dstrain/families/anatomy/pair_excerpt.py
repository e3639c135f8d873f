"""The first pairs of a source as small files in the same form: on them whole epochs can be counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from dstrain.config.source_files import kind_of
from dstrain.config.translate import PairSource
from dstrain.data.reading.pair_sources import PairCorpus
from dstrain.data.reading.pair_text import Line, PairText, RawPair
from dstrain.data.reading.text import Malformed

UNPACKED = {"hub": None, "config": None, "split": "train", "revision": None, "embedded": None, "part": "all",
            "weight": 1.0}


def excerpt(corpus: PairCorpus, source: PairSource, languages: tuple[str, str], folder: Path,
            pairs: int) -> PairSource:
    """A source of at most that many pairs of the corpus. Lines that hold both sides stay as they are, to the byte;
    parallel text and spelled numbers become two files, and what is on the hub becomes .jsonl."""
    found = list(islice(_well_formed(corpus), pairs))
    if source.path is not None:
        path = folder / f"pairs{kind_of(Path(source.path))}"
        path.write_bytes(b"".join(raw.line.rstrip(b"\r\n") + b"\n" for raw, _ in found if isinstance(raw, Line)))
        return replace(source, path=str(path), **UNPACKED)
    if source.hub is not None:
        lines = [json.dumps({"translation": dict(zip(languages, (text.source, text.target)))}) for _, text in found]
        _write(folder / "pairs.jsonl", lines)
        return replace(source, path=str(folder / "pairs.jsonl"), **UNPACKED)
    _write(folder / "pairs.source", [text.source for _, text in found])
    _write(folder / "pairs.target", [text.target for _, text in found])
    return replace(source, source_path=str(folder / "pairs.source"), target_path=str(folder / "pairs.target"),
                   **UNPACKED)


def pairs_in(source: PairSource, languages: tuple[str, str]) -> list[PairText]:
    """All pairs of an excerpt, by plain means: nothing here is shared with what training reads them with."""
    if source.path is None:
        sides = [Path(path).read_bytes().decode().split("\n")[:-1] for path in (source.source_path, source.target_path)]
        return [PairText(*pair) for pair in zip(*sides, strict=True)]
    lines = Path(source.path).read_bytes().decode().split("\n")[:-1]
    if source.path.endswith(".tsv"):
        return [PairText(*(line.split("\t")[column] for column in source.columns)) for line in lines]
    records = [json.loads(line) for line in lines]
    return [PairText(*(record.get("translation", record)[language] for language in languages)) for record in records]


def _well_formed(corpus: PairCorpus) -> Iterator[tuple[RawPair, PairText]]:
    for file in range(corpus.file_count):
        for _, raw in corpus.documents(file):
            try:
                text = corpus.text_of(raw)
            except Malformed:
                continue
            if text is not None:
                yield raw, text


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")

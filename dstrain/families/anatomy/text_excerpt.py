"""The beginning of a recipe's own sources, as small files in the same form: on them whole passes can be counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from dstrain.config.schema import Source
from dstrain.data.reading.sources import Corpus, Malformed


def excerpt(source: Source, folder: Path, documents: int = 32, long: int = 0, first_characters: int = 20_000,
            characters: int = 1_000) -> Source:
    """A source with the same settings of at most that many documents: the first one long, the others short. `long`
    characters are put in front of the first, out of the beginnings of all, as often as it takes: what a reader or a
    lane does with a document that is longer than others shows on no ordinary text."""
    corpus = Corpus(source, 0, "excerpt")
    texts = [text[:characters if number else first_characters]
             for number, text in enumerate(islice(_texts(corpus, first_characters), documents))]
    if long and texts:
        flowing = " ".join(" ".join(texts).split()) + " "
        texts[0] = (flowing * (long // len(flowing) + 1))[:long] + texts[0]
    if corpus.has_rows(0):
        lines = [json.dumps({source.text_field: text}) + "\n" for text in texts]
        _write(folder / "text.jsonl", "".join(lines))
        return replace(source, path=str(folder / "text.jsonl"), weight=1.0, documents="file", starts=None, hub=None,
                       config=None, split="train", revision=None)
    if source.starts is not None or source.documents != "file":
        between = "\n\n" if source.documents == "paragraphs" else "\n"
        _write(folder / "text.txt", "".join(text.removesuffix("\n") + between for text in texts))
        return replace(source, path=str(folder / "text.txt"), weight=1.0, text_field="text")
    for number, text in enumerate(texts):
        _write(folder / f"{number:04}.txt", text)
    return replace(source, path=str(folder / "*.txt"), embedded=None, part="all", weight=1.0, text_field="text")


def _texts(corpus: Corpus, most_characters: int) -> Iterator[str]:
    """Documents with text in them; of one that comes in pieces no more than the beginning is read."""
    for file in range(corpus.file_count):
        held = ""
        for _, raw in corpus.documents(file):
            try:
                piece = corpus.text_of(raw)
            except Malformed:
                continue
            held += piece.text
            if not piece.ends and len(held) < most_characters:
                continue
            if held.strip():
                yield held[:most_characters]
            held = ""
            if not piece.ends:
                break


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")

"""What rows say of documents is held against the documents, at any length of theirs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dstrain.config.load import load_recipe
from dstrain.data import parsed
from dstrain.data.collate import Row, collate, part_of
from dstrain.doctor.case import Case
from dstrain.doctor.proofs import labels
from dstrain.families.anatomy.lm_places import Slots, misplaced, slots_of

END = 9
DOCUMENTS = [np.array([*numbers, END]) for numbers in ([1, 2, 3], [1, 2], [4], [1, 2, 3, 5, 6, 7, 8])]


def rows_of(order: list[int], length: int) -> list[Slots]:
    rows, parts, room = [], [], length
    for document in (DOCUMENTS[number] for number in order):
        start = 0
        while start < len(document):
            parts.append(part_of(document, start, room, 1))
            start, room = start + len(parts[-1].targets), room - len(parts[-1].targets)
            if not room:
                rows, parts, room = [*rows, Row(len(rows), parts)], [], length
    return list(slots_of(collate([*rows, *([Row(len(rows), parts)] if parts else [])], len(rows) + 2, length, END)))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 50])
def test_rows_of_whole_documents_are_right_at_any_length(length):
    assert misplaced(rows_of([3, 0, 1, 2, 2, 0, 3], length), DOCUMENTS, END) == 0


@pytest.mark.parametrize("field", ["ids", "labels", "segments", "positions"])
def test_each_wrong_slot_is_counted(field):
    for number in range(len(rows_of([3, 0, 1, 2], 5))):
        rows = rows_of([3, 0, 1, 2], 5)
        getattr(rows[number], field)[rows[number].length - 1] += 1
        assert misplaced(rows, DOCUMENTS, END) >= 1, (field, number)


def test_segments_in_padding_are_counted():
    rows = rows_of([0, 1], 50)
    rows[0].segments[-1] = 0
    assert misplaced(rows, DOCUMENTS, END) == 1


def test_a_long_document_that_is_cut_is_found_in_a_corpus_of_short_ones(tmp_path, monkeypatch):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"text number {number} " * 20}) + "\n"
                                                  for number in range(100)))
    source = f"[{{path: {tmp_path}/texts.jsonl}}]"
    case = Case.of(load_recipe("quickstart", [f"data.train={source}", f"data.valid={source}", "tokenizer=bytes"]))
    try:
        assert labels.prove(case).passed
        inner = parsed._targets
        monkeypatch.setattr(parsed, "_targets", lambda *arguments: inner(*arguments)[:30_000])
        assert not labels.prove(case).passed
    finally:
        case.close()

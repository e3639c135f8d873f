"""Rows become tensors: the one shift, the one place of -100."""

import numpy as np
import torch
from data_help import BYTES, recipe_of

from dstrain.data.collate import Row, collate, filler_batch, part_of

EOT = 256


def parts(*documents):
    return [part_of(np.array(targets, dtype=np.int32), start, room, words=5) for targets, start, room in documents]


def test_a_batch_shifts_once_within_documents_and_pads_by_length():
    row = Row(3, parts(([1, 2, EOT], 0, 9), ([7, 8, 9, EOT], 2, 9)))
    batch = collate([row], micro_rows=2, length=7, eot=EOT)
    assert batch.ids_BT.tolist() == [[EOT, 1, 2, 8, 9, 0, 0], [0] * 7]
    assert batch.labels_BT.tolist() == [[1, 2, EOT, 9, EOT, -100, -100], [-100] * 7]
    assert batch.segments_BT.tolist() == [[0, 0, 0, 1, 1, -1, -1], [-1] * 7]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 0, 0], [0] * 7]
    assert batch.lengths_B.tolist() == [5, 0] and batch.rows_B.tolist() == [3, -1]
    assert batch.words == 5  # the first document starts here; the second is a continuation


def test_each_input_is_the_label_before_it_and_a_document_starts_with_end_of_text():
    targets = np.array([5, 6, 7, 8, EOT], dtype=np.int32)
    first, second = part_of(targets, 0, 3, words=1), part_of(targets, 3, 3, words=1)
    batch = collate([Row(0, [first]), Row(1, [second])], 2, 3, EOT)
    assert batch.ids_BT.tolist() == [[EOT, 5, 6], [7, 8, 0]]
    assert batch.labels_BT.tolist() == [[5, 6, 7], [8, EOT, -100]]
    assert (first.goes_on, second.goes_on) == (True, False)


def test_models_get_neither_labels_nor_lengths():
    batch = filler_batch(recipe_of(), 3)
    assert set(batch.inputs()) == {"ids_BT", "segments_BT", "positions_BT"}
    assert batch.ids_BT.shape == (3, 8) and (batch.labels_BT == -100).all() and batch.rows_B.tolist() == [-1] * 3
    assert all(tensor.dtype == torch.int64 for tensor in batch.inputs().values())


def test_to_moves_every_tensor_and_keeps_the_words():
    batch = collate([Row(0, parts(([1, EOT], 0, 2)))], 1, 2, BYTES.eot)
    moved = batch.to("meta")
    assert moved.words == 5 and {tensor.device.type for tensor in moved._tensors().values()} == {"meta"}

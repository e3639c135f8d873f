"""Event files that TensorBoard itself reads back: what is in them, what a resumed run makes void, a clock set back."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dstrain.train import event_file
from dstrain.train.event_file import EventFile
from dstrain.train.picture import LESS, LINE, MORE, NARROW, PAPER, UNKNOWN, Picture, _width, png


def read_back(folder) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder), purge_orphaned_data=True, size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def write(folder, start: int, values: dict[int, float]) -> EventFile:
    file = EventFile(folder, start)
    for step, value in values.items():
        file.add_scalar("train/loss", value, step)
    file.write_out()
    file.close()
    return file


def test_what_was_written_is_there_at_once_and_reads_back(tmp_path):
    file = EventFile(tmp_path, 0)
    file.add_scalar("train/loss", 2.5, 1)
    file.add_scalar("train/lr", 0.125, 1)
    file.add_text("samples/1", "    as it # stands \N{SNOWMAN}\ud800", 1)
    assert read_back(tmp_path) == {}  # nothing is handed out before it is asked for
    file.write_out()
    assert read_back(tmp_path) == {"train/loss": [(1, 2.5)], "train/lr": [(1, 0.125)]}
    board = EventAccumulator(str(tmp_path)).Reload()
    text, = board.Tensors("samples/1/text_summary")
    assert text.step == 1 and text.tensor_proto.string_val == ["    as it # stands \N{SNOWMAN}?".encode()]
    assert board.SummaryMetadata("samples/1/text_summary").plugin_data.plugin_name == "text"


def test_steps_after_the_checkpoint_are_void_once_the_run_goes_on_from_it(tmp_path):
    write(tmp_path, 0, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    write(tmp_path, 2, {3: 30.0})
    assert read_back(tmp_path) == {"train/loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}


def test_a_torn_last_event_hides_nothing_that_was_written_before_or_after(tmp_path):
    file = write(tmp_path, 0, {1: 1.0, 2: 2.0, 3: 3.0})
    file.path.write_bytes(file.path.read_bytes()[:-5])
    write(tmp_path, 2, {3: 30.0})
    assert read_back(tmp_path) == {"train/loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}


def test_on_a_clock_that_was_set_back_a_new_file_still_comes_after_the_old(tmp_path, monkeypatch):
    monkeypatch.setattr(event_file.time, "time", lambda: 2_000_000_000.0)
    write(tmp_path, 0, {1: 1.0, 2: 2.0, 3: 3.0})
    monkeypatch.setattr(event_file.time, "time", lambda: 1_000_000_000.0)
    write(tmp_path, 2, {3: 30.0})
    assert read_back(tmp_path) == {"train/loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}
    assert len({path.name for path in tmp_path.iterdir()}) == 2


def test_a_full_disk_is_an_error_of_the_call_and_names_the_file(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left.*full"):
        event_file.Appended(tmp_path / "full").append(b"x")


def test_a_spread_keeps_each_value_and_a_picture_each_cell(tmp_path):
    file = EventFile(tmp_path, 0)
    file.add_spread("moe/layer_00/load", [0.5, 1.0, 1.0, 1.5], 7)
    picture = Picture([[-1.0, 0.0, 1.0]] * 2, [["0", "1", "4"]] * 2, ["0", "11"], ["0", "1", "2"], [(0.0, "1")],
                      "Rows are layers.")
    file.add_picture("moe/load", picture, 7)
    file.write_out()
    file.close()
    board = EventAccumulator(str(tmp_path)).Reload()
    spread, = board.Histograms("moe/layer_00/load")
    assert spread.step == 7 and spread.histogram_value.bucket_limit == [0.5, 1.0, 1.5]
    assert spread.histogram_value.bucket == [1.0, 2.0, 1.0] and spread.histogram_value.sum == 4.0
    assert board.SummaryMetadata("moe/load").summary_description == "Rows are layers."
    image, = board.Images("moe/load")
    pixels = read_png(image.encoded_image_string)
    assert pixels.shape == (image.height, image.width, 3)
    blue, white, red = (pixels[LINE + 1, column].tolist() for column in cells_of(picture))
    assert blue == LESS.tolist() and white == PAPER.tolist() and red == MORE.tolist()


def test_many_columns_are_narrow_and_what_is_no_number_is_grey(tmp_path):
    picture = Picture([[0.0, float("nan")] * 40], [["1"] * 80], ["0"], [str(n) for n in range(80)], [])
    pixels = read_png(png(picture)[0])
    assert pixels.shape[1] < 80 * 20 and pixels[LINE + 1, cells_of(picture)[1]].tolist() == UNKNOWN.tolist()


def cells_of(picture: Picture) -> list[int]:
    """Where each column's cells begin, and a pixel more."""
    left = _width(picture.rows)
    size = NARROW if len(picture.columns) > 40 else _width([*picture.columns, *picture.texts[0]])
    return [left + size * number + 1 for number in range(len(picture.columns))]


def read_png(file: bytes) -> np.ndarray:
    """By its own checksums and another reader's rules: eight bits of red, green and blue, no filter."""
    place, parts = 8, {}
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    while place < len(file):
        size, = struct.unpack(">I", file[place:place + 4])
        kind, data = file[place + 4:place + 8], file[place + 8:place + 8 + size]
        assert struct.unpack(">I", file[place + 8 + size:place + 12 + size])[0] == zlib.crc32(kind + data)
        parts[kind], place = data, place + 12 + size
    width, height, *form = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert form == [8, 2, 0, 0, 0] and list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 3 * width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)

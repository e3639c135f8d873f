"""Event files that TensorBoard itself reads back: values, texts, what a resumed run makes void, a clock set back."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dstrain.train import event_file
from dstrain.train.event_file import EventFile


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

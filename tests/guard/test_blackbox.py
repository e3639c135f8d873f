"""The black box's files: rewritten in place at a fixed size, read back whole, one alarm only."""

from __future__ import annotations

import pytest

from dstrain.config.errors import UserError
from dstrain.guard.blackbox import (
    SIZE, Alarm, Record, RecordFile, TakenOver, alarm_path, clear, raise_alarm, read_alarm, read_record, read_records,
    record_path)


def test_a_record_keeps_its_4096_bytes_whatever_is_written(tmp_path):
    clear(tmp_path)
    file = RecordFile(tmp_path, 3)
    for words in ("", "x" * 10_000, "\u00e4" * 9_000, '"\\\n' * 3_000):
        record = Record(rank=3, step=7, detail=words, ending={"cause": "error", "words": words, "step": 7})
        file.write(record)
        assert record_path(tmp_path, 3).stat().st_size == SIZE
        back = read_record(tmp_path, 3)
        assert back.rank == 3 and back.step == 7 and back.ending["cause"] == "error"
        assert back.detail == words or (back.detail.endswith("...") and words.startswith(back.detail[:-3]))
    assert [record.rank for record in read_records(tmp_path)] == [3]


def test_a_record_that_was_not_written_yet_is_none(tmp_path):
    clear(tmp_path)
    assert read_record(tmp_path, 0) is None
    RecordFile(tmp_path, 0)
    assert read_record(tmp_path, 0) is None and read_records(tmp_path) == []


def test_fields_of_another_release_are_passed_over(tmp_path):
    clear(tmp_path)
    record_path(tmp_path, 0).write_text('{"rank": 0, "step": 5, "colour": "red"}')
    assert read_record(tmp_path, 0).step == 5
    alarm_path(tmp_path).write_text('{"kind": "stuck"}')
    assert read_alarm(tmp_path) is None


def test_an_observer_of_an_earlier_attempt_cannot_write_into_a_new_one(tmp_path):
    clear(tmp_path)
    old = RecordFile(tmp_path, 0)
    clear(tmp_path)
    RecordFile(tmp_path, 0).write(Record(step=9))
    with pytest.raises(TakenOver):
        old.write(Record(step=1))
    assert read_record(tmp_path, 0).step == 9


def test_only_the_first_alarm_counts(tmp_path):
    clear(tmp_path)
    alarm = Alarm("stopped", 1, "node7", 4711, 12, "step", "micro-batch 1 of 2", 20.5, "rank 1 is stopped")
    assert raise_alarm(tmp_path, alarm)
    assert not raise_alarm(tmp_path, Alarm("stuck", 0, "node6", 1, 12, "step", "", 1.0, "no"))
    assert read_alarm(tmp_path) == alarm


@pytest.mark.parametrize("in_the_way", ["a file", "a folder"])
def test_what_stands_in_the_black_boxs_place_is_named_and_is_no_matter_of_room(tmp_path, in_the_way):
    if in_the_way == "a file":
        (tmp_path / "blackbox").touch()
    else:
        (tmp_path / "blackbox/x").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        clear(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"cannot empty the black box {tmp_path}/blackbox: ") and "room" not in said
    assert ("in the place of a folder" if in_the_way == "a file" else "blackbox/x") in said and "run.dir=..." in said


def test_a_record_is_written_on_where_its_folder_was_moved(tmp_path):
    (tmp_path / "run").mkdir()
    clear(tmp_path / "run")
    file = RecordFile(tmp_path / "run", 0)
    (tmp_path / "run").rename(tmp_path / "moved")
    file.write(Record(step=9))
    assert read_record(tmp_path / "moved", 0).step == 9 and file.read().step == 9
    assert not (tmp_path / "run").exists()

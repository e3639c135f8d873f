"""Full disks, read-only disks, vanished folders, odd clocks: one clear line, the right exit code, and nothing is lost.

Disks are real and small, mounted for the test: as root alone. The same command goes on afterwards, and ends in the very
run that was never disturbed.
"""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path

import pytest
from bad_places import (
    before_call, fill, make_room, moved, moved_back, odd_clock, read_only, removed, replaced, small_disk, unmounted,
    writable_again)
from forked_commands import Ended, command
from small_run import lay_out
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dstrain.config.errors import Trouble, UserError
from dstrain.config.load import load_recipe
from dstrain.config.os_errors import in_one_line
from dstrain.doctor.proofs.resume import compare_runs
from dstrain.train.run_folder import Footing, RunFolder, read_lines

APPEND = "dstrain.train.appended:Appended.append"
WRITE_AT = "dstrain.runtime.checkpoint.disk:write_at"
SAVE, LOG = "dstrain.train.trainer:save", "dstrain.train.watch:Watch.log"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Beside the recipe: straight1 and straight2, the runs of one and two ranks that nothing disturbed."""
    place = lay_out(tmp_path_factory.mktemp("places"))
    for ranks in (1, 2):
        assert trained(place, f"straight{ranks}", ranks).codes == [0] * ranks
    return place


def trained(place: Path, folder: str, ranks: int = 1, before=None, *more: str) -> Ended:
    return command(place, "train", "small.yaml", f"run.dir={folder}", "checkpoint.keep=99", *more, ranks=ranks,
                   before=before)


def disturbed(place: Path, folder: Path, ranks: int, where: str, at: int, act, of_rank: int = 0) -> Ended:
    """A training in which `act` happens to the disk just before call number `at` of a function on rank `of_rank`."""
    before = functools.partial(before_call, where, at, functools.partial(act, folder), of_rank)
    ended = trained(place, folder.name, ranks, before)
    assert ended.codes == [1] * ranks and is_one_line(ended), ended
    return ended


def is_one_line(ended: Ended) -> bool:
    return ended.errors.startswith("dstrain: ") and ended.errors.count("\n") == 1


def assert_goes_on_unharmed(place: Path, folder: Path, ranks: int) -> Ended:
    again = trained(place, folder.name, ranks)
    assert again.codes == [0] * ranks and again.errors == "", again
    differences, compared = compare_runs(place / f"straight{ranks}", folder, load_recipe(str(place / "small.yaml")))
    assert differences == [] and compared >= 30
    assert not list(folder.glob("small/checkpoints/.making*"))
    return again


@pytest.mark.parametrize("ranks, where, at, of_rank, names", [
    (2, "dstrain.commands.train:engine_json", 2, 0, "cannot use the run folder"),       # before the lock
    (1, "dstrain.commands.train:watched", 1, 0, "blackbox"),
    (1, "dstrain.train.start:_keep", 1, 0, "cannot keep the tokenizer"),
    (1, "dstrain.train.announce:freeze", 1, 0, "cannot use the run folder"),            # recipe.yaml
    (1, APPEND, 2, 0, "tfevents"),
    (1, APPEND, 4, 0, "cannot write FOLDER/small/metrics.jsonl"),
    (2, WRITE_AT, 9, 1, "cannot save FOLDER/small/checkpoints/step_0000000"),           # while rank 1 writes its share
])
def test_a_disk_that_fills_up(place, ranks, where, at, of_rank, names):
    with small_disk(place / f"{where.rpartition(':')[2]}{at}_{ranks}") as disk:
        ended = disturbed(place, disk, ranks, where, at, fill, of_rank)
        assert names.replace("FOLDER", disk.name) in ended.errors and "No space left on device" in ended.errors
        assert "make room" in ended.errors
        make_room(disk)
        assert_goes_on_unharmed(place, disk, ranks)


def test_a_disk_that_is_full_when_a_run_goes_on(place):
    with small_disk(place / "full_later") as disk:
        disturbed(place, disk, 1, SAVE, 3, fill)
        before = (disk / "small/recipe.yaml").read_bytes(), (disk / "small/metrics.jsonl").read_bytes()
        for fills in (None, functools.partial(before_call, "dstrain.train.announce:freeze", 1,
                                              functools.partial(fill, disk), 0)):
            again = trained(place, disk.name, 1, fills)
            assert again.codes == [1] and is_one_line(again) and "No space left" in again.errors, again
            assert before == ((disk / "small/recipe.yaml").read_bytes(), (disk / "small/metrics.jsonl").read_bytes())
            make_room(disk)
        assert "goes on from full_later/small/checkpoints/step_0000000" in assert_goes_on_unharmed(place, disk, 1).out


def test_a_disk_that_becomes_read_only(place):
    with small_disk(place / "read_only") as disk:
        ended = disturbed(place, disk, 1, LOG, 2, read_only)
        assert "Read-only file system" in ended.errors and "make it writable" in ended.errors
        at_the_start = trained(place, disk.name)
        assert at_the_start.codes == [1] and is_one_line(at_the_start) and "Read-only" in at_the_start.errors
        writable_again(disk)
        assert "goes on from" in assert_goes_on_unharmed(place, disk, 1).out


@pytest.mark.parametrize("ranks, act, where, at, says", [
    (1, moved, LOG, 2, "was removed, moved or unmounted while it was trained"),
    (2, moved, WRITE_AT, 30, "moved"),          # in the middle of a save
    (1, replaced, SAVE, 2, "another folder has taken the place of run folder"),
])
def test_a_run_folder_that_goes_away_comes_back_with_everything(place, ranks, act, where, at, says):
    with small_disk(place / f"{act.__name__}{ranks}") as disk:
        ended = disturbed(place, disk, ranks, where, at, act)
        assert says in ended.errors
        assert [path.name for path in (disk / "small").glob("*")] == []  # nothing was begun in its place
        moved_back(disk)
        assert_goes_on_unharmed(place, disk, ranks)


def test_a_footing_that_is_lost_is_noticed_and_one_that_is_kept_is_not(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "small").mkdir()
        lock = RunFolder(disk / "small").lock()
        footing = Footing(RunFolder(disk / "small"))
        footing.check()
        moved(disk)
        with pytest.raises(Trouble, match="was removed, moved or unmounted"):
            footing.check()
        moved_back(disk)
        (disk / "small/.lock").write_text((disk / "small/.lock").read_text())
        footing.check()
        (disk / "small/.lock").write_text(
            '{"pid": 12, "host": "other", "user": "ann", "since": "noon", "command": "x"}')
        with pytest.raises(Trouble, match=r"trained by process 12 on other \(user ann, since noon: x\) by now"):
            footing.check()
        removed(disk)
        (disk / "small").mkdir()
        with pytest.raises(Trouble, match="another folder has taken the place"):
            footing.check()
        unmounted(disk)
        with pytest.raises(Trouble, match="unmounted"):
            footing.check()
        lock.close()


def test_checkpoints_and_records_that_are_removed_are_begun_again_and_it_is_said(place, tmp_path):
    """Without a save under way, or it would race with the removal."""
    act = functools.partial(lose_checkpoints_and_board, tmp_path)
    ended = trained(place, str(tmp_path), 1, functools.partial(before_call, SAVE, 3, act, 0),
                    "checkpoint.background=false")
    assert ended.codes == [0] and ended.errors == ""
    assert f"{tmp_path}/small/checkpoints was removed or moved while the run trained" in ended.out
    assert "tfevents" in ended.out and "was removed, moved or replaced while the run wrote to it" in ended.out
    left = sorted(path.name for path in (tmp_path / "small/checkpoints").iterdir())
    assert left == ["best", "latest", "step_00000004", "step_00000006"]
    straight = place / "straight1/small/checkpoints/step_00000006"
    for name in ("model.safetensors", "optimizer-exp_avg.safetensors", "state.json"):
        assert (tmp_path / "small/checkpoints/step_00000006" / name).read_bytes() == (straight / name).read_bytes()
    board = EventAccumulator(str(tmp_path / "small/tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [5, 6]


def lose_checkpoints_and_board(folder: Path) -> None:
    removed(folder, "small/checkpoints")
    removed(folder, "small/tensorboard")


@pytest.mark.parametrize("name, code, says", [
    ("file", 2, "cannot use the run folder file/small: Not a directory; choose another place with run.dir=..."),
    ("dangling", 2, "a link that leads nowhere, stands in the place of a folder (dangling); choose another place"),
    ("y/" * 2200, 2, "File name too long; choose another place with run.dir=..."),
    ("/proc/nowhere", 1, "cannot use the run folder /proc/nowhere/small: "),
])
def test_a_place_that_cannot_hold_a_run(place, name, code, says):
    (place / "file").write_text("not a folder")
    (place / "dangling").unlink(missing_ok=True)
    (place / "dangling").symlink_to("nowhere/at/all")
    for ranks in (1, 2):
        ended = trained(place, name, ranks)
        assert ended.codes == [code] * ranks and is_one_line(ended) and says in ended.errors, ended
        assert len(ended.errors) < 600


def test_a_place_with_blanks_and_letters_of_all_kinds(place):
    folder = place / "my rûns (neu) 走る 🙂"
    assert "done: 6 steps" in assert_goes_on_unharmed(place, folder, 1).out
    scored = command(place, "eval", str(folder / "small"))
    assert scored.codes == [0] and "bits_per_byte" in scored.out


@pytest.mark.parametrize("error, kind, says", [
    ("EDQUOT", Trouble, "make room"), ("ENOSPC", Trouble, "make room"), ("EIO", Trouble, "see to the disk"),
    ("EROFS", Trouble, "make it writable"), ("ESTALE", Trouble, "put it back"), ("EMFILE", Trouble, "ulimit -n"),
    ("EACCES", UserError, "choose another place with run.dir=..."), ("ENOTDIR", UserError, "choose another place")])
def test_each_error_of_the_system_is_the_users_or_the_machines(error, kind, says):
    number = getattr(errno, error)
    said = in_one_line(OSError(number, os.strerror(number), "runs/x/file"), "use", "runs/x", "run.dir=...")
    assert type(said) is kind and says in str(said)
    assert str(said).startswith(f"cannot use runs/x: {os.strerror(number)} (runs/x/file); ")
    later = in_one_line(OSError(number, os.strerror(number)), "write", "runs/x/file")  # in mid-run no place was chosen
    assert type(later) is Trouble


@pytest.mark.parametrize("days", [(-365, 18_000), (18_000, -365)])
def test_a_clock_that_jumps_changes_nothing(place, days):
    """A year back, then half a century ahead, within a run and between it and its going on; or the other way round."""
    folder = place / f"clock{days[0]}"
    stopped = trained(place, folder.name, 1, functools.partial(odd_clock, days, SAVE, 3))
    assert stopped.codes == [1] and is_one_line(stopped) and "cannot go on: No space left" in stopped.errors
    again = trained(place, folder.name, 1, functools.partial(odd_clock, days[::-1], SAVE, 99))
    assert again.codes == [0] and again.errors == "" and "goes on from" in again.out, again
    differences, compared = compare_runs(place / "straight1", folder, load_recipe(str(place / "small.yaml")))
    assert differences == [] and compared >= 30
    steps = [record for record in read_lines(folder / "small/metrics.jsonl") if "split" not in record]
    assert all(record["tokens_per_s"] > 0 and 0 <= record["data_wait"] < 10 for record in steps)
    board = EventAccumulator(str(folder / "small/tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    times = [event.wall_time for event in board.Scalars("train/loss")]
    assert max(times) - min(times) > 300 * 86_400  # the clock did jump

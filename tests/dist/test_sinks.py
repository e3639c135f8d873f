"""Side files: a disk that fails ends all ranks together and loses no rank in a collective; resumed runs read alike."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from sinks_jobs import train_on_a_failing_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dstrain.doctor.proofs.resume import forget_after, resumable, run_to_end
from dstrain.train.records import WALL_CLOCK_TAGS, same_records
from dstrain.train.run_folder import RunFolder, read_lines

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def straight(case):
    folder = case.folder / "straight_records"
    run_to_end(case, resumable(case.recipe), folder, 2, "zero2_fp32")
    return folder


@pytest.mark.parametrize("operation, name, at", [
    ("append", "metrics", 2), ("append", "ledger", 3), ("append", "tfevents", 4), ("append", "metrics", 6),
    ("sync", "metrics", 1), ("sync", "ledger", 2), ("sync", "tfevents", 2)])
def test_all_ranks_end_together_and_the_same_command_goes_on(case, straight, tmp_path, operation, name, at):
    recipe = resumable(case.recipe)
    recipe = replace(recipe, run=replace(recipe.run, dir=str(tmp_path)))
    first, second = case.ranks(2).run(train_on_a_failing_disk, recipe, operation, name, at, timeout_s=60.0)
    assert first[0] == "Trouble" and second[0] == "TroubleElsewhere"
    why = {"append": "No space left on device", "sync": "Input/output error"}[operation]
    assert name in first[1] and why in first[1] and "goes on from the last committed checkpoint" in first[1]
    run, whole = RunFolder(tmp_path / "run"), RunFolder(straight / "run")
    committed = sorted(path.name for path in run.checkpoints.glob("step_*"))
    assert len(committed) == {("append", 2): 0, ("append", 3): 1, ("append", 4): 0, ("append", 6): 2, ("sync", 1): 0,
                              ("sync", 2): 1}[operation, at]
    assert case.ranks(2).alive
    run_to_end(case, recipe, tmp_path, 2, "zero2_fp32")
    assert same_records(run.metrics, whole.metrics) and same_records(run.ledger, whole.ledger)
    assert scalars(run) == scalars(whole)


def test_records_are_compared_without_the_clock_and_with_everything_else(straight, tmp_path):
    whole, copy = RunFolder(straight / "run").metrics, tmp_path / "metrics.jsonl"
    text = whole.read_text()
    speed = read_lines(whole)[3]["tokens_per_s"]
    copy.write_text(text.replace(f'"tokens_per_s": {speed}', '"tokens_per_s": 1.0'))
    assert copy.read_text() != text and same_records(whole, copy)
    loss = read_lines(whole)[3]["loss"]
    copy.write_text(text.replace(str(loss), str(loss + 1e-9)))
    assert not same_records(whole, copy)
    copy.write_text("".join(text.splitlines(keepends=True)[:-1]))
    assert not same_records(whole, copy)


def test_tensorboard_shows_a_run_that_was_stopped_as_the_one_that_was_not(case, straight, tmp_path):
    recipe = resumable(case.recipe)
    shutil.copytree(straight, tmp_path / "stopped")
    for lost_after in (4, 2):
        forget_after(tmp_path / "stopped", recipe, lost_after)
        run_to_end(case, recipe, tmp_path / "stopped", 2, "zero2_fp32")
    whole, stopped = scalars(RunFolder(straight / "run")), scalars(RunFolder(tmp_path / "stopped/run"))
    assert [step for step, _ in whole["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert {"train/lr", "train/grad_norm", "data/pad_share"} <= whole.keys()
    assert whole == stopped


def scalars(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, without what a clock gave."""
    board = EventAccumulator(str(run.tensorboard), purge_orphaned_data=True, size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]
            if not tag.startswith(WALL_CLOCK_TAGS)}

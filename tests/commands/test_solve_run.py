"""A run of the family arc from training to a submission: scores, pictures, `eval` and `solve`, through the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import environment, read_lines
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dstrain.__main__ import main

FLIP = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}, {"input": [[3, 4]], "output": [[4, 3]]}],
        "test": [{"input": [[5, 6]], "output": [[6, 5]]}]}
LARGER = {"train": [{"input": [[1]], "output": [[1, 1], [1, 1]]}, {"input": [[2]], "output": [[2, 2], [2, 2]]}],
          "test": [{"input": [[3]], "output": [[3, 3], [3, 3]]}, {"input": [[4]], "output": [[4, 4], [4, 4]]}]}
SMALL = ("model={kind: champion, width: 32, heads: 8, encoder_layers: 1, decoder_layers: 1, ff: 32}",
         "batch={tokens: 2048, micro_tokens: 2048, window: 32, length: 600}", "schedule.warmup_steps=1",
         "run.steps=2", "valid={every: 2, views: 2}", "checkpoint.every=2", "log.samples=2",
         "data.valid=[{path: tasks/*.json}]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a run of two steps lies in runs/, and its validation tasks in tasks/."""
    folder = tmp_path_factory.mktemp("solver")
    (folder / "tasks").mkdir()
    for name, task in (("flip", FLIP), ("larger", LARGER)):
        (folder / "tasks" / f"{name}.json").write_text(json.dumps(task))
    subprocess.run([sys.executable, "-m", "dstrain", "train", "arc-quickstart", "run.name=small", *SMALL], cwd=folder,
                   env=environment(), check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture
def spoken(folder, monkeypatch, capsys):
    def act(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        code = main([*arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return act


def test_a_validation_writes_generated_scores_without_the_table_and_draws_a_puzzle_of_each_category(folder):
    scores = read_lines(folder / "runs/small/metrics.jsonl")[-1]
    assert scores["split"] == "valid" and "puzzles" not in scores
    assert {"grid_accuracy", "grid_accuracy_2", "cell_accuracy", "shape_accuracy", "changed_found", "copy_baseline",
            "copy_cell_accuracy", "answered"} <= scores.keys()
    assert {name: of_one["queries"] for name, of_one in scores["by_category"].items()} == {"same size": 1, "larger": 2}
    board = EventAccumulator(str(folder / "runs/small/tensorboard")).Reload()
    assert board.Tags()["images"] == ["puzzles/1", "puzzles/2"]
    words = [board.SummaryMetadata(f"puzzles/{number}").summary_description for number in (1, 2)]
    assert "Puzzle flip (same size)" in words[0] and "Puzzle larger (larger)" in words[1]
    assert {"valid/grid_accuracy", "valid/copy_baseline", "valid_cell_accuracy/larger"} <= set(board.Tags()["scalars"])


def test_eval_and_solve_say_the_same_of_the_same_puzzles(folder, spoken):
    code, said, _ = spoken("eval", "runs/small")
    assert code == 0
    solved, out, beside = spoken("solve", "runs/small", "--tasks", "tasks", "--views", "2", "--pictures", "pictures")
    assert solved == 0 and "(2 tasks, 3 queries in 2 views each, " in beside
    table = [line for line in out.splitlines() if line.split()[:1] in (["flip"], ["larger"], ["puzzle"])]
    assert len(table) == 4 and set(table) <= set(said.splitlines())
    submission = json.loads((folder / "submission.json").read_text())
    assert {name: len(queries) for name, queries in submission.items()} == {"flip": 1, "larger": 2}
    for attempt in (query[key] for queries in submission.values() for query in queries for key in query):
        assert len({len(row) for row in attempt}) == 1 and all(0 <= cell <= 9 for row in attempt for cell in row)
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["flip.png", "larger.png"]


def test_a_run_of_another_family_and_no_run_at_all_are_refused(spoken):
    code, out, said = spoken("generate", "runs/small", "--prompt", "x")
    assert code == 2 and "is a run of the family arc: use `dstrain solve runs/small`" in said
    code, out, said = spoken("solve", "runs/none", "--tasks", "tasks")
    assert code == 2 and "runs/none is not a run folder with checkpoints" in said and said.count("\n") == 1
    code, out, said = spoken("solve", "runs/small", "--tasks", "tasks", "--checkpoint", "7")
    assert code == 2 and "--checkpoint 7: not in" in said

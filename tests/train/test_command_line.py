"""What a user types and gets: exit codes, one-line errors, going on, starting over, Ctrl-C."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import environment, lay_out, read_lines
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture
def place(tmp_path):
    return lay_out(tmp_path)


def dstrain(place: Path, *arguments: str, **options):
    return subprocess.run([sys.executable, "-m", "dstrain", *arguments], cwd=place, env=environment(),
                          capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, **options)


def test_a_run_whose_reader_leaves_trains_on(place):
    with subprocess.Popen([sys.executable, "-m", "dstrain", "train", "small.yaml"], cwd=place, env=environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline().startswith("run ")
        run.stdout.close()  # as `| head -1` does
        errors = run.stderr.read()
    assert run.returncode == 0 and (place / "runs/small/checkpoints/step_00000006").is_dir() and errors == ""


def test_tensorboard_shows_each_step_once_after_going_on(place):
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as OfThePage
    assert dstrain(place, "train", "small.yaml").returncode == 0
    for newer in (place / "runs/small/checkpoints").glob("step_00000006"):
        shutil.rmtree(newer)
    assert dstrain(place, "train", "small.yaml").returncode == 0
    shown = OfThePage(str(place / "runs/small/tensorboard")).Reload()
    assert [event.step for event in shown.Tensors("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_run_leaves_what_the_design_promises(place):
    done = dstrain(place, "train", "small.yaml", "log.norms_every=4", "valid.patience=9")
    assert done.returncode == 0, done.stderr
    run = place / "runs/small"
    records = [line for line in read_lines(run / "metrics.jsonl") if "split" not in line]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert set(records[0]) == {"step", "loss", "terms", "lr", "grad_norm", "tokens", "tokens_per_s", "data_wait",
                               "skipped"}
    assert records[-1]["tokens"] == 6 * 8 * 32
    scores = [line for line in read_lines(run / "metrics.jsonl") if line.get("split") == "valid"]
    assert [line["step"] for line in scores] == [3, 6]
    # 35 bytes of text in two lines, and two ends; a line's own end is no part of its document
    assert scores[0]["targets"] == len("one plus one is two") + len("and that is all") + 2
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "best", "latest", "step_00000004", "step_00000006"]
    assert (run / "checkpoints/latest").read_text() == "step_00000006\n"
    assert all((run / name).is_file() for name in ("recipe.yaml", "ds_config.json", "environment.json", "ledger.jsonl"))
    for words in FIRST_SCREEN:
        assert words in done.stdout
    check_tensorboard(run, records, scores)

    again = dstrain(place, "train", "small.yaml")
    assert again.returncode == 0 and "finished already" in again.stdout

    scored = dstrain(place, "eval", "runs/small")
    assert scored.returncode == 0 and "bits_per_byte" in scored.stdout
    assert f"{scores[-1]['loss']:.4g}" in scored.stdout

    written = dstrain(place, "generate", "runs/small", "--prompt", "line 7", "--max-new-tokens", "5")
    assert written.returncode == 0 and written.stdout.startswith("line 7")

    replayed = dstrain(place, "replay", "runs/small", "--step", "5")
    assert replayed.returncode == 0 and "as in the ledger" in replayed.stdout and "line " in replayed.stdout
    (place / "corpus.txt").write_text((place / "corpus.txt").read_text().replace("plus", "less"))
    changed = dstrain(place, "replay", "runs/small", "--step", "5")
    assert changed.returncode == 2 and "the files have changed" in changed.stderr
    (place / "runs/small/ledger.jsonl").write_text('{"step": 1, "rows": "0123456789abcdef", "scored": 256}\n')
    (place / "corpus.txt").write_text((place / "corpus.txt").read_text().replace("less", "plus"))
    other = dstrain(place, "replay", "runs/small", "--step", "1")
    assert other.returncode == 1 and "but the ledger has 0123456789abcdef" in other.stdout


FIRST_SCREEN = (
    "0.025M parameters (25,376)",                               # 257 x 32, two blocks of 8,544, and 64
    "data       1,536 targets in 6 steps, 0.061 per parameter",  # 6 x 8 x 32
    "bytes of text", "step 1: 0.0 % of the positions are padding",
    "step       8 rows x 32 = 256 positions: 1 rank(s) x 2 micro-batch(es) of 4 rows (train_batch_size 8)",
    "optimizer  AdamW, lr 0.0006, weight decay 0.1; by WarmupCosineLR, warm-up 2 steps",
    "engine     zero1_fp32: ZeRO stage 1 on cpu",
    "early end  after 9 validation(s) in a row, one every 3 steps, without a smaller loss\n",
    "time       roughly", "for 6 steps")
"""what a run says before its first step; offload, shards and Muon only where there are any"""


def check_tensorboard(run: Path, records: list[dict], scores: list[dict]) -> None:
    """Every step, at its number; norms at steps 1 and 4; what is shown at logs, after every second step, at those."""
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    steps = {tag: [event.step for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    for tag in ("train/loss", "train/lr", "train/grad_norm", "perf/tokens_per_s", "data/wait"):
        assert steps.pop(tag) == [1, 2, 3, 4, 5, 6]
    for tag in ("loss", "perplexity", "targets", "bits_per_byte", "word_perplexity"):
        assert steps.pop(f"valid/{tag}") == [3, 6]
    for tag in ("data/pad_share", "data/bad_lines", "perf/data_wait_share", "mem/resident_gib"):
        assert steps.pop(tag) == [2, 3, 4, 6]  # and before a validation: step 3
    parts = ["embed", "norm", *(f"blocks.{block:02}.{part}" for block in (0, 1)
                                for part in ("attention", "attention_norm", "ff", "ff_norm"))]
    for part in parts:
        for kind in ("gradient_norm", "weight_norm", "update_norm", "update_per_weight"):
            assert steps.pop(f"{kind}/{part}") == [1, 4]
    assert steps == {}  # one source has no share, fp32 no loss scale, AdamW no other lr
    for tag, key in (("train/loss", "loss"), ("train/lr", "lr"), ("train/grad_norm", "grad_norm")):
        assert [event.value for event in board.Scalars(tag)] == pytest.approx([r[key] for r in records], rel=1e-6)
    assert [event.value for event in board.Scalars("valid/loss")] == pytest.approx(
        [score["loss"] for score in scores], rel=1e-6)
    assert [event.step for event in board.Tensors("samples/1/text_summary")] == [3, 6]


def test_more_steps_go_on_and_another_model_is_refused(place):
    assert dstrain(place, "train", "small.yaml", "schedule.name=WarmupLR").returncode == 0
    more = dstrain(place, "train", "small.yaml", "schedule.name=WarmupLR", "run.steps=8", "optim.lr=1e-4")
    assert more.returncode == 0 and "goes on from" in more.stdout
    assert "optim.lr: 0.0006 -> 0.0001" in more.stdout and "run.steps: 6 -> 8" in more.stdout
    records = [line for line in read_lines(place / "runs/small/metrics.jsonl") if "split" not in line]
    assert [record["step"] for record in records] == list(range(1, 9)) and records[-1]["lr"] == 1e-4
    wider = dstrain(place, "train", "small.yaml", "model.width=64", "run.steps=9")
    assert wider.returncode == 2 and wider.stderr.count("\n") == 1
    assert "model.width is 64" in wider.stderr and "--fresh" in wider.stderr


def test_starting_over_asks_first(place):
    assert dstrain(place, "train", "small.yaml", "run.steps=2").returncode == 0
    refused = dstrain(place, "train", "small.yaml", "--fresh", "run.steps=2", "run.seed=5")
    assert refused.returncode == 2 and "--yes" in refused.stderr
    assert (place / "runs/small/checkpoints/step_00000002").is_dir()
    over = dstrain(place, "train", "small.yaml", "--fresh", "--yes", "run.steps=2", "run.seed=5")
    assert over.returncode == 0 and "seed: 5" in (place / "runs/small/recipe.yaml").read_text()


@pytest.mark.parametrize("arguments, parts", [
    (["train", "smal.yaml"], ["smal.yaml"]),
    (["train", "small.yaml", "batch.row=3"], ["row", "rows"]),
    (["train", "small.yaml", "data.train=[{path: nothing.txt}]"], ["nothing.txt"]),
    (["train", "small.yaml", "engine.config=zero0_bf16x"], ["zero0_bf16x"]),
    (["train", "small.yaml", "batch.rows=7"], ["lanes"]),
    (["eval", "runs/nowhere"], ["runs/nowhere", "not a run folder"]),
    (["generate", "runs/nowhere"], ["runs/nowhere"]),
    (["replay", "runs/nowhere", "--step", "1"], ["runs/nowhere"]),
    (["doctor", "small.yaml", "--only", "mask"], ["mask", "padding"]),
])
def test_a_mistake_is_one_line_and_exit_code_two(place, arguments, parts):
    done = dstrain(place, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert all(part in done.stderr for part in parts), done.stderr


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(place):
    command = [sys.executable, "-m", "dstrain", "train", "small.yaml", "run.steps=100000", "schedule.name=WarmupLR"]
    process = subprocess.Popen(command, cwd=place, env=environment(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if "saved" in line:
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 30
    assert "Ctrl-C" in errors and "Traceback" not in errors
    done = dstrain(place, "train", "small.yaml", "run.steps=30", "schedule.name=WarmupLR")
    assert done.returncode == 0, done.stderr
    assert "goes on from" in done.stdout or "finished already" in done.stdout


def test_a_nan_in_every_step_ends_the_run_with_a_reason(place):
    done = dstrain(place, "train", "small.yaml", "optim.lr=1e30", "optim.clip=0", "run.max_skipped=3", "run.steps=40",
                   "schedule.warmup_steps=0")
    assert done.returncode == 2 and "the last 3 steps were all skipped" in done.stderr
    records = [line for line in read_lines(place / "runs/small/metrics.jsonl") if "split" not in line]
    assert [record["skipped"] for record in records[-3:]] == [True] * 3


def test_the_doctor_proves_this_recipe_and_writes_a_certificate(place):
    done = dstrain(place, "doctor", "small.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    certificate = json.loads((place / "runs/small/doctor.json").read_text())
    assert {proof["verdict"] for proof in certificate["proofs"]} == {"proven"}
    assert {proof["name"] for proof in certificate["proofs"]} > {"labels", "future", "same_curve", "resume"}
    assert f"{len(certificate['proofs'])} proven, 0 not proven, 0 FAILED" in done.stdout


def test_validation_text_that_is_empty_is_a_mistake_before_the_first_step(place):
    (place / "empty.jsonl").write_text('{"text": ""}\n{"text": ""}\n')
    done = dstrain(place, "train", "small.yaml", "data.valid=[{path: empty.jsonl}]")
    assert done.returncode == 2 and "data.valid" in done.stderr and done.stderr.count("\n") == 1
    assert "step 1" not in done.stdout


def test_packed_text_of_several_parts_trains(place):
    text = (place / "corpus.txt").read_bytes()
    (place / "corpus.txt.gz").write_bytes(gzip.compress(text[:5000]) + gzip.compress(text[5000:]) + gzip.compress(b""))
    done = dstrain(place, "train", "small.yaml", "data.train=[{path: corpus.txt.gz, documents: lines}]", "run.steps=2")
    assert done.returncode == 0, done.stderr
    assert "epochs unknown" in done.stdout

"""`dstrain replay`: the rows of one step, made again from recipe and data, and held against the ledger."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Callable

from dstrain.config.errors import UserError
from dstrain.config.load import load_saved_recipe


def replay_command(run: Path, step: int, rows: int) -> int:
    """Prints the rows of optimizer step `step`; 1 if they are not those that were trained on."""
    from dstrain.families import family_of
    from dstrain.train.run_folder import RunFolder, read_lines

    folder = RunFolder(run)
    if not folder.recipe.is_file():
        raise UserError(f"{run} is not a run folder: it has no recipe.yaml")
    recipe = load_saved_recipe(folder.recipe)
    if not 1 <= step <= recipe.run.steps:
        raise UserError(f"--step {step}: this run has steps 1 to {recipe.run.steps}")
    family = family_of(recipe)
    place, tokenizer = _nearest_place(folder, step, lambda where: family.open_tokenizer(recipe, where))
    feed = family.train_feed(recipe, tokenizer, 0, 1, place)
    try:
        batch = next(batch for batch in feed if batch.number == step)
    finally:
        feed.close()

    found = f"{batch.rows_hash % 2**64:016x}"
    _print_rows(batch, tokenizer, rows, family.row_texts)
    recorded = {line["step"]: line["rows"] for line in read_lines(folder.ledger)} if folder.ledger.is_file() else {}
    print(f"step {step}: rows {found}, " + (
        "not in the ledger" if step not in recorded else
        "as in the ledger" if recorded[step] == found else
        f"but the ledger has {recorded[step]}: the data or the recipe has changed since"))
    return int(step in recorded and recorded[step] != found)


def _nearest_place(folder, step: int, open_tokenizer: Callable[[Path | None], Any]) -> tuple[dict | None, Any]:
    """Place and tokenizer of the last good checkpoint before `step`, so that not all steps have to be made again."""
    from dstrain.runtime.checkpoint.folder import committed, step_of
    from dstrain.runtime.checkpoint.loading import load
    from dstrain.runtime.checkpoint.manifest import verify
    for checkpoint in reversed(committed(folder.checkpoints)):
        if step_of(checkpoint) < step and verify(checkpoint) is None:
            try:
                return load(checkpoint).state["place"], open_tokenizer(checkpoint / "tokenizer")
            except (UserError, OSError):
                if checkpoint.exists():
                    raise  # else a training beside us has just removed it: one before it serves as well, or none
    return None, open_tokenizer(folder.tokenizer if folder.tokenizer.is_dir() else None)


def _print_rows(batch, tokenizer, rows: int, row_texts: Callable) -> None:
    texts = (row for micro_batch in batch.micro_batches for row in row_texts(micro_batch, tokenizer))
    for number, text in islice(texts, rows):
        print(f"--- row {number}, {text}")

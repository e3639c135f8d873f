"""What a run keeps: checkpoints, the newest and the best."""

from __future__ import annotations

from dstrain.runtime import checkpoint
from dstrain.train.run import Run
from dstrain.train.state import write_side_files


def save(run: Run) -> None:
    """Commit a checkpoint; the side files are on the disk before it is."""
    folder, state, ranks = run.folder.checkpoints, run.state, run.ranks
    run.sinks.sync()
    state.place = run.family.merge_places(ranks.gather(state.place))
    saved = checkpoint.save(folder, run.engine, state.to_json(),
                            lambda where: write_side_files(where, run.recipe, run.tokenizer), ranks)
    with ranks.together(f"tidying {folder}"):
        if ranks.first:
            if state.best_step == state.step:
                checkpoint.point(folder, "best", saved.name)
            checkpoint.prune(folder, run.recipe.checkpoint.keep, run.progress.say)
    run.progress.say(f"saved {saved}")

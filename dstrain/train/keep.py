"""What a run keeps: checkpoints, the newest and the best. And how it leaves when it is asked to."""

from __future__ import annotations

from dstrain.config.errors import Left
from dstrain.train.run import Run
from dstrain.train.state import write_side_files
from dstrain.train.step import Wishes


def save(run: Run) -> None:
    """Commit a checkpoint; the side files are on the disk before it is."""
    state = run.state
    run.ranks.pulse.enter("saving")
    run.sinks.sync()
    run.ranks.agree(run.sinks.error, "writing the run's records")
    places = run.ranks.gather(state.place)
    if any(place != places[0] for place in places):  # else merged or loaded, and nothing was trained since
        state.place = run.family.merge_places(places)
    run.saver.save(state.to_json(), lambda where: write_side_files(where, run.recipe, run.tokenizer),
                   is_best=state.best_step == state.step)


def wishes(run: Run) -> Wishes:
    """What this rank tells the others with the next step."""
    run.sinks.look()
    return Wishes(leave=must_leave(run), fails=run.saver.failed or run.sinks.error is not None)


def must_leave(run: Run) -> bool:
    """Asked to; or the time is nearly over, given what the next step and a save take. The first rank's clock counts."""
    needs_s = 2 * run.ranks.pulse.slowest_step_s + 1.5 * run.saver.last_save_s + 5.0
    return run.bell.rings(needs_s) if run.ranks.first else run.bell.reason is not None


def heed(run: Run, told: Wishes) -> None:
    """Say what was saved meanwhile; where writing failed on any rank, all end here, with its reason."""
    run.saver.news()
    if told.fails:
        run.saver.finish()
        run.ranks.agree(run.sinks.error, "writing the run's records")


def leave(run: Run) -> None:
    """All ranks, after they have saved: end, and say who asked for it."""
    run.ranks.pulse.enter("leaving")
    run.saver.finish()
    reason = next((reason for reason in run.ranks.gather(run.bell.reason) if reason is not None), "a request")
    raise Left(f"left at step {run.state.step} of {run.recipe.run.steps}, on {reason}: everything up to there is "
               "saved, and the same command goes on")

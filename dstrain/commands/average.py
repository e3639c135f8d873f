"""The mean of a run's last checkpoints: its weights waver less than those of any one of them, and score better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dstrain.commands.use import TRIES, Trained, load_trained, refuse_damaged
from dstrain.config.errors import UserError
from dstrain.config.load import load_saved_recipe


def load_averaged(run: Path, which: str, count: int, command: str) -> tuple[Trained, list[int]]:
    """As `load_trained`, with the weights' mean over the `count` committed checkpoints up to that one; and their
    steps, where there are several."""
    if count < 1:
        raise UserError(f"--average {count}: must be at least 1 checkpoint (1: it alone)")
    for _ in range(TRIES):
        trained = load_trained(run, which, command)
        chosen = _up_to(trained.where, count)
        try:
            return trained, _fill_with_mean(trained, chosen) if count > 1 else []
        except (UserError, OSError):
            if all(where.exists() for where in chosen):     # else its training has removed one: there is a newer one
                raise
    raise UserError(f"{run}: its training removed checkpoints {TRIES} times while they were read; set checkpoint.keep "
                    f"higher than --average {count}")


def _up_to(where: Path, count: int) -> list[Path]:
    from dstrain.runtime.checkpoint.folder import committed

    if count == 1:
        return [where]
    where = where.resolve()
    there = committed(where.parent)
    there = there[:there.index(where) + 1] if where in there else [where]
    if len(there) < count:
        raise UserError(f"--average {count}: up to {where.name} {where.parent} has {len(there)} "
                        f"checkpoint{'s' * (len(there) != 1)}; average fewer, or train with checkpoint.keep={count} or "
                        "more")
    return there[-count:]


def _fill_with_mean(trained: Trained, chosen: list[Path]) -> list[int]:
    """In float64, one parameter after the other; counters, such as an expert's bias in steps, to the nearest whole
    number, which goes with the weights' mean as each goes with its checkpoint's. Their steps."""
    from dstrain.runtime.checkpoint.loading import load
    from dstrain.runtime.engine import counters, fill_weights, own_name

    whole = {own_name(name) for name, _ in counters(trained.trainee)}
    checkpoints = []
    for where in chosen:
        refuse_damaged(where)
        checkpoints.append(load(where))
        if load_saved_recipe(where / "recipe.yaml").model != load_saved_recipe(trained.where / "recipe.yaml").model:
            raise UserError(f"{where} holds another model than {trained.where}: there is no mean of the two; average "
                            "fewer checkpoints")
        if checkpoints[-1].weights.shapes != checkpoints[0].weights.shapes:
            raise UserError(f"{where} holds other parameters than {chosen[0]}: there is no mean of the two; average "
                            "fewer checkpoints")

    def mean(name: str, shape: Any) -> Any:
        of_all = sum(checkpoint.weight_of(name, shape).double() for checkpoint in checkpoints) / len(checkpoints)
        return of_all.round() if name in whole else of_all

    fill_weights(trained.trainee, mean)
    return [checkpoint.state["step"] for checkpoint in checkpoints]

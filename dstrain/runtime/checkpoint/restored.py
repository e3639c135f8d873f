"""After loading: is what the engine now holds what the checkpoint holds, bit for bit? Each rank looks at its own part.

It shares no line with what loads: a moment that was skipped or a range that was shifted there is found here.
"""

from __future__ import annotations

import math
from collections import Counter

import torch

from dstrain.config.errors import Trouble
from dstrain.config.schema import Recipe
from dstrain.runtime.checkpoint.loading import Loaded
from dstrain.runtime.engine import Engine, counters, own_name
from dstrain.runtime.fragments import held_range
from dstrain.runtime.schedules import share_of_peak

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""integers to compare numbers of so many bytes by: equal as numbers is not enough, NaN is equal to nothing"""


def check_restored(loaded: Loaded, engine: Engine, recipe: Recipe) -> str:
    """All ranks call it together. Says in a line what is as it was saved; a difference is an error that names it."""
    ranks, step = engine.ranks, loaded.state["step"]
    with ranks.together(f"comparing what was loaded with {loaded.folder}"):
        seen = _compare_own_fragments(loaded, engine)
        _compare_module(loaded, engine)
        _compare_counts(loaded, engine)
        _compare_lrs(engine, recipe, step + 1)
    seen_anywhere = sum(ranks.gather(seen), Counter())
    with ranks.together(f"comparing what was loaded with {loaded.folder}"):
        _nothing_is_missing(loaded, engine, seen_anywhere)
    lrs = ", ".join(f"{lr:.3g}" + (f" ({rule})" if len(engine.lrs()) > 1 else "") for rule, lr in engine.lrs().items())
    return (f"verified: {_short(seen_anywhere['weights'])} weights and {_moments_in_words(seen_anywhere, engine)}"
            f"{_counters_in_words(seen_anywhere, engine)}, as saved at step {step}; "
            f"step {step + 1} uses lr {lrs}")


def _compare_own_fragments(loaded: Loaded, engine: Engine) -> Counter:
    """How many weights, counters, and numbers of each moment, were found to be the checkpoint's."""
    seen, parameters = Counter(), engine.shapes().keys()
    needed = {key: set(shapes) for key, shapes in engine.moment_shapes().items()}
    for fragment in engine.saved_fragments():
        first, last = fragment.start, fragment.start + fragment.weight.numel()
        held = {"weights" if fragment.name in parameters else "counters": (loaded.weights, fragment.weight)}
        held |= {key: (loaded.moments[key], fragment.moments[key]) for key, names in needed.items()
                 if fragment.name in names}
        for key, (file, values) in held.items():
            saved = file.tensor(fragment.name).reshape(-1)[first:last]
            _compare(loaded, f"{key} of {fragment.name}", engine.ranks.rank, first, values, saved)
            seen[key] += values.numel()
    return seen


def _compare_module(loaded: Loaded, engine: Engine) -> None:
    """The module's own weights, which the forward pass uses: the masters, rounded to its precision. Its counters."""
    for name, parameter in engine.trainee.named_parameters():
        first, size = held_range(parameter)
        saved = loaded.weights.tensor(own_name(name)).reshape(-1)[first:first + size]
        own = getattr(parameter, "ds_tensor", parameter).data.view(-1)[:size]
        _compare(loaded, f"the module's own {own_name(name)}", engine.ranks.rank, first, own, saved)
    for name, counter in counters(engine.trainee):  # on every rank: a checkpoint gets the first one's
        saved = loaded.weights.tensor(own_name(name)).reshape(-1)
        _compare(loaded, f"the module's own {own_name(name)}", engine.ranks.rank, 0, counter.view(-1), saved)


def _compare_counts(loaded: Loaded, engine: Engine) -> None:
    for held in (int(state["step"]) for state in engine.optimizer.state.values() if "step" in state):
        if held != loaded.state["optimizer_step"]:
            raise _wrong(loaded, f"the optimizer counts {held} updates instead of {loaded.state['optimizer_step']}")


def _compare_lrs(engine: Engine, recipe: Recipe, step: int) -> None:
    """Of the step that comes next, as it stands in the optimizer."""
    engine.schedule.step(step)
    share = share_of_peak(recipe.schedule, recipe.run.steps, step)
    peaks = {"adamw": recipe.optim.lr, "muon": recipe.optim.muon_lr or recipe.optim.lr}
    for group in engine.optimizer.param_groups:
        lr, due = float(group["lr"]), peaks[group["rule"]] * share
        if not math.isclose(lr, due, rel_tol=1e-12, abs_tol=1e-30):
            raise Trouble(f"step {step} would use lr {lr} for {group['names'][0]}, but the recipe's schedule says "
                          f"{due}: nothing was trained or changed in the run folder; please report it")


def _nothing_is_missing(loaded: Loaded, engine: Engine, seen: Counter) -> None:
    weights = engine.shapes()
    counted = {name: shape for name, shape in engine.saved_shapes().items() if name not in weights}
    for key, shapes in {"weights": weights, "counters": counted, **engine.moment_shapes()}.items():
        needed = sum(map(math.prod, shapes.values()))
        if seen[key] != needed:
            raise _wrong(loaded, f"{key}: all ranks together hold {seen[key]:,} numbers of {needed:,}")


def _compare(loaded: Loaded, what: str, rank: int, first: int, held: torch.Tensor, saved: torch.Tensor) -> None:
    saved = saved.to(held.device, held.dtype)
    bits = BITS[held.element_size()]
    if torch.equal(held.view(bits), saved.view(bits)):
        return
    place = int((held.view(bits) != saved.view(bits)).nonzero()[0])
    raise _wrong(loaded, f"{what}: element {first + place} on rank {rank} is {float(held[place])!r} instead of "
                         f"{float(saved[place])!r}")


def _wrong(loaded: Loaded, what: str) -> Trouble:
    return Trouble(f"{loaded.folder} was loaded wrongly: {what}. Nothing was trained or changed in "
                   "the run folder; start it again, on another machine if there is one (memory may be bad), and if it "
                   "stays, please report it")


def _moments_in_words(seen: Counter, engine: Engine) -> str:
    moments = {key: count for key, count in seen.items() if key not in ("weights", "counters")}
    trained = engine.trained_parameters
    if all(count == trained for count in moments.values()):
        of = "each" if seen["weights"] == trained else f"the {_short(trained)} trained"
        return f"{len(moments)} moments of {of}"
    return "moments (" + ", ".join(f"{key} of {_short(count)}" for key, count in moments.items()) + ")"


def _counters_in_words(seen: Counter, engine: Engine) -> str:
    """With the last two parts of their names: where in a layer they are, and what they are called there."""
    kinds = sorted({".".join(name.split(".")[-2:]) for name, _ in counters(engine.trainee)})
    counted = f", {seen['counters']:,} whole numbers that the model counts ({', '.join(kinds)})"
    return counted if kinds else ""


def _short(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,}"

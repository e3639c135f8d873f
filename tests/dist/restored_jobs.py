"""What tests of loading let ranks do: restore a checkpoint wrongly, each time in one way; what is said of it."""

from __future__ import annotations

from pathlib import Path

from dstrain.config.engine_json import engine_json
from dstrain.config.errors import Trouble, TroubleElsewhere
from dstrain.config.schema import Recipe
from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.runtime.checkpoint.loading import Loaded, load
from dstrain.runtime.checkpoint.restored import check_restored
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine


def restored_with_harm(ranks: Ranks, recipe: Recipe, ds_config: str, folder: Path, harm: str) -> tuple[str, str]:
    """(kind of error or "well", what is said) after restoring and one harm on the last rank."""
    family, loaded, config = family_of(recipe), load(folder), engine_json(recipe, ranks.world, "cpu", ds_config)
    engine = Engine(lambda: family.build_trainee(recipe, load_tokenizer(recipe.tokenizer)),
                    lambda trainee: loaded.weight_of, recipe, config, ranks)
    loaded.restore(engine)
    if ranks.rank == ranks.world - 1:
        HARMS[harm](engine, loaded)
    try:
        return "well", check_restored(loaded, engine, recipe)
    except (Trouble, TroubleElsewhere) as error:
        return type(error).__name__, str(error)
    finally:
        engine.close()


def _skip_a_moment(engine: Engine, loaded: Loaded) -> None:
    last = list(engine.own_fragments())[-1]
    last.moments["exp_avg_sq"].zero_()


def _shift_an_offset(engine: Engine, loaded: Loaded) -> None:
    """As a restore would that begins one element late."""
    for fragment in engine.own_fragments():
        if fragment.name == "blocks.1.ff.up.weight":
            whole = loaded.moments["exp_avg"].tensor(fragment.name).reshape(-1)
            fragment.moments["exp_avg"].copy_(whole.roll(-1)[fragment.start:][:fragment.weight.numel()])


def _flip_the_sign_of_zero(engine: Engine, loaded: Loaded) -> None:
    """Equal as a number, another bit: only a comparison of bits sees it."""
    fragment = next(engine.own_fragments())
    loaded.moments["exp_avg"].tensor(fragment.name).view(-1)[fragment.start] = 0.0  # in memory; the file stays
    fragment.moments["exp_avg"][0] = -0.0


def _leave_the_module_stale(engine: Engine, loaded: Loaded) -> None:
    parameter = dict(engine.trainee.named_parameters())["model.blocks.0.ff.down.weight"]
    own = parameter.ds_tensor.data if hasattr(parameter, "ds_tensor") else parameter.data
    own.view(-1)[:3] += 1.0


def _change_a_master(engine: Engine, loaded: Loaded) -> None:
    next(engine.own_fragments()).weight[0] += 1e-3


def _forget_the_count(engine: Engine, loaded: Loaded) -> None:
    engine.set_optimizer_step(0)


def _use_another_lr(engine: Engine, loaded: Loaded) -> None:
    engine.optimizer.param_groups[0]["peak_lr"] *= 1.001


def _take_the_first_ranks_experts(engine: Engine, loaded: Loaded) -> None:
    engine.model.blocks[0].ff.experts.down.share = (0, 2)


def _lose_a_nudge(engine: Engine, loaded: Loaded) -> None:
    engine.model.blocks[0].ff.router.nudges[1] += 1


HARMS = {"none": lambda engine, loaded: None, "a moment is skipped": _skip_a_moment,
         "an offset is shifted": _shift_an_offset, "a zero has another sign": _flip_the_sign_of_zero,
         "the module's weights are stale": _leave_the_module_stale, "a master is changed": _change_a_master,
         "the count is forgotten": _forget_the_count, "another lr is used": _use_another_lr,
         "experts are another rank's": _take_the_first_ranks_experts, "a nudge is lost": _lose_a_nudge}
